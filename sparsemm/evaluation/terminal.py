"""What a sweep and a doctor show on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from sparsemm.evaluation.cells import Cell
from sparsemm.evaluation.tables import variant

if TYPE_CHECKING:
    import pandas as pd

    from sparsemm.evaluation.doctor import Finding
    from sparsemm.evaluation.sweep import Outcome


FAILURES_NAMED = 5
"""So many documents that failed are named with their reason."""


HEADING = "method \\ budget"
COLUMN = 8
"""Characters that a column of scores takes, its frame included."""


def cell_name(cell: Cell) -> str:
    """A cell in a few words: ``tiny_ocr snapkv 32``."""
    budget = f" {cell.method.budget}" if cell.method.evicts else ""
    return f"{cell.task} {cell.variant}{budget}"


def responses_progress(console: Console) -> Progress:
    """A bar that counts responses: documents times cells."""
    text, times = TextColumn("{task.description}"), (TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(text, BarColumn(), MofNCompleteColumn(), *times, console=console)


def print_outcomes(outcomes: Sequence[Outcome], console: Console) -> int:
    """Print the scores of one or several sweeps, a table for each task, model and folder they went into.

    Returns
    -------
    int
        Exit code: 1 if documents could not be answered, or a job of a multirun failed.
    """
    errors, jobs = [outcome.error for outcome in outcomes if outcome.error], len(outcomes)
    outcomes = [outcome for outcome in outcomes if outcome.cells]  # a plan has none, nor has a second process
    for folder in dict.fromkeys(outcome.folder for outcome in outcomes):
        here = [outcome for outcome in outcomes if outcome.folder == folder]
        cells, table = [cell for outcome in here for cell in outcome.cells], here[-1].table
        pairs = dict.fromkeys((cell.task, cell.model) for cell in cells)
        several = len({model for _, model in pairs}) > 1
        for task, model in pairs:
            of_pair = [cell for cell in cells if (cell.task, cell.model) == (task, model)]
            _print_task(f"{task}, {model}" if several else task, of_pair, table, console)
        console.print(f"{folder}/cells.csv holds {len(table)} cells")
    failed = {key: reason for outcome in outcomes for key, reason in outcome.failed.items()}
    for (task, doc_id), reason in [*failed.items()][:FAILURES_NAMED]:
        line = f"failed: {task} document {doc_id}: {reason}"
        console.print(line, markup=False, soft_wrap=True)
    if failed:
        count = "1 document" if len(failed) == 1 else f"{len(failed)} documents"
        console.print(
            f"{count} could not be answered, counted as empty; the same command tries again", soft_wrap=True
        )
    for error in errors:
        console.print(f"failed: {error}", markup=False, soft_wrap=True)
    if errors:
        console.print(f"{len(errors)} of {jobs} jobs failed; the same command runs only those again")
    return 1 if failed or errors else 0


def _print_task(title: str, cells: Sequence[Cell], table: pd.DataFrame, console: Console) -> None:
    """One task's scores: methods as rows, budgets as columns, in as many tables as the terminal needs."""
    variants = dict.fromkeys(cell.variant for cell in cells)
    budgets = sorted({cell.method.budget for cell in cells if cell.method.evicts})
    of_task = table[(table["task"] == cells[0].task) & (table["model"] == cells[0].model)]
    labels = of_task[["method", "prompt", "ablation", "fraction"]].itertuples(index=False)
    named = of_task.assign(variant=[variant(*_present(label)) for label in labels])
    rows = named[named["variant"].isin(list(variants))]
    heading = f": {rows['metric'].iloc[0]}, {rows['n'].iloc[0]} documents"
    console.print(Text.assemble("\n", (title, "bold"), heading))
    names = {one: _name(one, rows[rows["variant"] == one]) for one in variants}
    room = console.width - max(map(len, [HEADING, *names.values()])) - 4
    tables = max(1, -(-len(budgets) * COLUMN // max(room, COLUMN)))
    size = -(-len(budgets) // tables) or 1
    for shown in [budgets[start : start + size] for start in range(0, len(budgets), size)] or [[]]:
        printed = Table()
        printed.add_column(HEADING, no_wrap=True)
        for heading in [str(budget) for budget in shown] or ["all tokens"]:
            printed.add_column(heading, justify="right")
        for one, name in names.items():
            group = rows[rows["variant"] == one]
            printed.add_row(name, *(_score(group, budget) for budget in shown or [None]))
        console.print(printed)


def _present(label: Iterable[Any]) -> list[Any]:
    """A row's values, None in the place of what pandas calls missing."""
    return [value if isinstance(value, str) or value == value else None for value in label]


def _seeds(group: pd.DataFrame) -> int:
    """How many draws there are: seeds of the method, times those of the ablation."""
    return max(1, group[["seed", "ablation_params"]].drop_duplicates().shape[0])


def _name(label: str, group: pd.DataFrame) -> str:
    return f"{label}, {_seeds(group)} seeds" if _seeds(group) > 1 else label


def _score(group: pd.DataFrame, budget: float | None) -> str:
    """One score (FullKV's under every budget), a mean of seeds, or several where other parameters differ."""
    chosen = group if group["budget"].isna().all() else group[group["budget"] == budget]
    if len(chosen) == _seeds(group):
        return f"{chosen['score'].mean():.3f}"
    return " ".join(f"{value:.3f}" for value in chosen["score"])


def print_findings(findings: Sequence[Finding], console: Console) -> int:
    """Print a doctor's findings, a line each, and return the exit code: 1 if something is wrong."""
    lines = Table.grid(padding=(0, 2))
    for finding in findings:
        mark = "[green]ok[/]" if finding.good else "[red]WRONG[/]"
        lines.add_row(mark, escape(finding.name), escape(finding.text))
    console.print(lines)
    wrong = sum(not finding.good for finding in findings)
    console.print(f"{wrong} of {len(findings)} wrong" if wrong else "compression works with this model")
    return int(wrong > 0)
