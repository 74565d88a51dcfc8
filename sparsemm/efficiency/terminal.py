"""What a benchmark shows on the terminal; rich is imported when it is used: a bare machine may lack it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sparsemm.efficiency import Report

if TYPE_CHECKING:
    from rich.console import Console

TEXTS = {"workload", "measured", "shape", "method", "cache", "decoding", "failed", "step", "state", "about"}
"""Columns that hold words."""


@contextmanager
def shown(console: Console) -> Iterator[Report]:
    """A bar of timed runs, or a line for each where the console is no terminal.

    The bar is drawn only between the runs: a thread that draws would be measured, too.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if not console.is_terminal:
        yield lambda done, total, text: console.print(f"{done}/{total} {text}")
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    progress = Progress(*columns, console=console, auto_refresh=False, transient=True)
    task = progress.add_task("", total=None)

    def report(done: int, total: int, text: str) -> None:
        progress.start()  # not before: wrong options leave nothing but their message
        progress.update(task, completed=done, total=total, description=text, refresh=True)

    try:
        yield report
    finally:
        progress.stop()


def print_rows(rows: Sequence[Mapping[str, Any]], shown: Mapping[str, str], console: Console) -> None:
    """Print columns of a benchmark's table, `shown` gives their headings: texts left, numbers right."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    for name, heading in shown.items():
        table.add_column(heading, justify="left" if name in TEXTS else "right")
    for row in rows:
        table.add_row(*(_text(row.get(name)) for name in shown))
    console.print(table)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
