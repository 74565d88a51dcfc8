"""What a grid will cost: jobs, cells, prompts to read, and GPU hours at a rate that was given or measured.

Nothing is run, no model is loaded; neither model nor data need be on this machine.
"""

from __future__ import annotations

import itertools
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sparsemm.configs import InputError
from sparsemm.evaluation import storefile
from sparsemm.evaluation.local_documents import DOCUMENTS
from sparsemm.evaluation.missing import count_prefills, what_is_missing
from sparsemm.evaluation.official import BENCHMARKS
from sparsemm.evaluation.writers import job_store_files, store_files_folder, store_numbers


class Cost(NamedTuple):
    """One (model, task): its documents, and for each time that they are read how many cells share that."""

    model: str
    task: str
    documents: int
    prefills: tuple[int, ...]

    @property
    def cells(self) -> int:
        """All of them."""
        return sum(self.prefills)


class Rate(NamedTuple):
    """Seconds that a document takes on one device.

    Attributes
    ----------
    alone : float or None
        Under one cell.
    together : float or None
        Under `cells` cells at once.
    cells : int or None
        None: whatever their number.
    """

    alone: float | None
    together: float | None
    cells: int | None = None

    def fanned_out(self, cells: int) -> float | None:
        """Seconds for a document under so many cells at once: on the line through both measured numbers.

        The line does not fall: more cells never take less time, though a busy machine may say so.
        """
        if self.together is None or self.cells is None or self.cells == cells:
            return self.together
        if self.alone is None or self.cells <= 1:
            return None
        return self.alone + (cells - 1) * max(0.0, self.together - self.alone) / (self.cells - 1)


def costs(config: Mapping[str, Any]) -> list[Cost]:
    """What each task of a sweep costs, finished cells included.

    Raises
    ------
    InputError, ValueError
        Wrong parameters of a method or ablation.
    """
    prefills, found = tuple(count for _, count in count_prefills(config)), []
    for task in config["tasks"]:
        documents = BENCHMARKS[task].documents if task in BENCHMARKS else DOCUMENTS
        documents = min(documents, config["limit"] or documents)
        found.append(Cost(config["model"]["name"], task, documents, prefills))
    return found


def rate_of(config: Mapping[str, Any]) -> Rate | None:
    """The option ``rate``: None, seconds, a pair of them, or a folder to measure them in.

    Raises
    ------
    InputError
        It is none of these.
    """
    given = config.get("rate")
    if given is None:
        return None
    if isinstance(given, str) and not given.replace(".", "", 1).isdigit():
        return measured(Path(given))
    pair = list(given) if isinstance(given, list) else [given, None]
    if len(pair) != 2 or not all(map(_is_time, pair[:1])) or not (pair[1] is None or _is_time(pair[1])):
        raise InputError(
            "rate must be the seconds that a document takes under one cell (rate=0.4), those and the seconds "
            f"under all cells at once (rate=[0.4,0.6]), or a results folder to measure them in, got {given!r}"
        )
    return Rate(float(pair[0]), None if pair[1] is None else float(pair[1]))


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def measured(folder: Path) -> Rate:
    """The rate at which a sweep's responses came into its store.

    The median over batches of the time from one commit to the next, over the batch's documents; batches of
    one cell and of several apart, of the latter those with the most cells.

    Raises
    ------
    InputError
        There is no store, or not two commits of a kind.
    """
    here = store_files_folder(folder)
    paths = [*(here / f"{number}.sqlite" for number in store_numbers(here)), *job_store_files(here)]
    times: dict[int, list[float]] = {}
    for path in (path for path in paths if path.exists()):
        with storefile.snapshot(path) as connection:
            for cells, seconds in _between_commits(connection):
                times.setdefault(cells, []).append(seconds)
    if not times:
        raise InputError(
            f"no rate can be measured in {folder}: it needs responses/ of a sweep of two batches or more"
        )
    most = max(times)
    alone = median(times[1]) if 1 in times else None
    return Rate(alone, median(times[most]), most) if most > 1 else Rate(alone, None)


def _between_commits(connection: sqlite3.Connection) -> Iterable[tuple[int, float]]:
    """(cells, seconds a document) of every commit that follows one of the same run and as many cells."""
    query = (
        "SELECT run, committed, COUNT(DISTINCT cell), COUNT(DISTINCT doc_id) FROM response "
        "WHERE committed > 0 AND NOT failed GROUP BY run, committed ORDER BY committed"
    )
    try:
        rows = connection.execute(query).fetchall()
    except sqlite3.DatabaseError:  # just begun, or damaged: it says nothing
        return
    for earlier, later in itertools.pairwise(rows):
        (run, before, cells, _), (same, after, as_many, documents) = earlier, later
        if (run, cells) == (same, as_many):
            yield cells, (after - before) / documents


def print_estimate(configs: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print what a grid costs, fanned out and cell by cell, and at a rate that is given in GPU hours."""
    found = [cost for config in configs for cost in costs(config)]
    cells = sum(cost.cells for cost in found)
    together = sum(cost.documents * len(cost.prefills) for cost in found)
    apart = sum(cost.documents * cost.cells for cost in found)
    jobs = f"{len(configs)} jobs, " if len(configs) > 1 else ""
    console.print(
        f"{jobs}{cells} cells: {together:,} prompts to read fanned out, {apart:,} cell by cell"
        + (f" ({apart / together:.1f} times as many)" if together < apart else "")
    )
    if (rate := rate_of(configs[0])) is None:
        return
    reads = [(cost.documents, cells) for cost in found for cells in cost.prefills]
    times = [rate.fanned_out(cells) for _, cells in reads]
    fanned = sum(documents * (seconds or 0) for (documents, _), seconds in zip(reads, times, strict=True))
    said = [f"{fanned / 3600:,.1f} fanned out"] if None not in times else []
    said += [f"{apart * rate.alone / 3600:,.1f} cell by cell"] if rate.alone is not None else []
    told = [f"{rate.alone:.3g} s a document under one cell"] if rate.alone is not None else []
    if rate.together is not None:
        at_once = "all cells" if rate.cells is None else f"{rate.cells} cells"
        told.append(f"{rate.together:.3g} s under {at_once} at once")
    console.print(f"GPU hours: {', '.join(said)} (at {', '.join(told)})")


def plan_jobs(configs: Sequence[Mapping[str, Any]]) -> None:
    """Print what a multirun would do: its jobs, what this machine lacks for them, and what they cost."""
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("model", "task"):
        table.add_column(heading, no_wrap=True)
    for heading in ("cells", "documents"):
        table.add_column(heading, justify="right")
    lines: dict[str, None] = {}
    for config in configs:
        for cost in costs(config):
            table.add_row(cost.model, cost.task, str(cost.cells), f"{cost.documents:,}")
        lines |= dict.fromkeys(what_is_missing(config).lines())
    console.print(table)
    for line in lines:
        console.print(f"missing: {line}")
    print_estimate(configs, console)
    console.print("nothing was run (plan=true)")
