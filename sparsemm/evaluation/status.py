"""``sparsemm status``: how far a sweep is, seen by another process while it runs.

Rows of the store are counted without looking at their checksums.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from sparsemm.configs import InputError
from sparsemm.evaluation import storefile
from sparsemm.evaluation.jobs import FINISHED, INTERRUPTED, RUNNING, WAITING, Job, jobs_folder, read_jobs
from sparsemm.evaluation.results import look_at_cells, said_of
from sparsemm.evaluation.tables import variant
from sparsemm.evaluation.writers import (
    PlannedCell,
    Writer,
    job_store_files,
    lock_is_held,
    read_plan,
    read_writer,
    store_files_folder,
    store_numbers,
)

COMMITS = 20
"""The speed is that of the last so many commits."""

REASONS = 5
"""So many failed documents are named."""


class CellProgress(NamedTuple):
    """A cell: how many of its documents are answered, and failed; finished once its file is there."""

    model: str
    task: str
    method: str
    budget: float | None
    answered: int
    failed: int
    documents: int
    finished: bool
    planned: bool


class Speed(NamedTuple):
    """Per minute: responses, and documents (in fanned-out sweeps, many responses each)."""

    responses: float
    documents: float


@dataclass(frozen=True)
class Status:
    """What is known of a results folder.

    Attributes
    ----------
    cells : list of CellProgress
        Planned ones, and those that are finished.
    failures : mapping
        Why a document, (task, doc_id), could not be answered.
    writers : list of Writer
        Those that are alive.
    speed : Speed or None
        None if no writer is alive, or none has committed anything yet.
    notices : list of str
        Files that could not be read.
    jobs : list of Job
        Those of multiruns.
    """

    cells: list[CellProgress]
    failures: Mapping[tuple[str, int], str]
    writers: list[Writer]
    speed: Speed | None
    notices: list[str]
    jobs: list[Job] = field(default_factory=list)


@dataclass
class _Stored:
    """What the store files of a folder hold."""

    plan: dict[str, PlannedCell] = field(default_factory=dict)
    writers: list[Writer] = field(default_factory=list)
    answered: dict[tuple[str, str, str], set[int]] = field(default_factory=dict)
    failed: dict[tuple[str, str, str], dict[int, str]] = field(default_factory=dict)
    commits: dict[float, list[tuple[str, str, int]]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def read(self, connection: sqlite3.Connection, alive: Callable[[Writer], bool]) -> None:
        """Add one file."""
        writer = read_writer(connection)
        if writer is not None and alive(writer):
            self.writers.append(writer)
        self.plan.update((cell.cell_id, cell) for cell in read_plan(connection))
        rows = connection.execute("SELECT run, cell, task, doc_id, failed, committed FROM response")
        for run, cell, task, doc_id, failed, committed in rows:
            if not failed:
                self.answered.setdefault((run, cell, task), set()).add(doc_id)
            self.commits.setdefault(committed, []).append((run, task, doc_id))
        for row in connection.execute(f"SELECT {storefile.COLUMNS} FROM response WHERE failed"):
            if storefile.valid(row):
                key, response = storefile.decode(row)
                self.failed.setdefault(key[:3], {})[key.doc_id] = response.error or ""


def read_status(folder: Path) -> Status:
    """Look at a results folder, whether or not a sweep is writing into it.

    Raises
    ------
    InputError
        There are no results.
    OSError
        A killed writer left an unfinished transaction, and the folder is read-only here.
    """
    places = (folder / "cells", store_files_folder(folder), jobs_folder(folder))
    if not any(place.is_dir() for place in places):
        finished = (folder / "cells.csv").is_file()
        what = "only tables of a finished sweep" if finished else "no results"
        raise InputError(f"{what} at {folder}: it has neither cells/ nor responses/")
    jobs, (finished, broken) = read_jobs(folder), look_at_cells(folder)
    files = {cell["id"]: cell for cell in finished}
    stored = _read_store(store_files_folder(folder), jobs)
    stored.notices += said_of(broken)
    failures: dict[tuple[str, int], str] = {}
    for cell, documents in stored.failed.items():
        for doc_id in (again := documents.keys() - stored.answered.get(cell, ())):
            failures[cell[2], doc_id] = documents[doc_id]
        stored.failed[cell] = {doc_id: documents[doc_id] for doc_id in again}
    for cell in files.values():
        samples = cell["samples"]
        for doc_id, reason in zip(samples["doc_id"], samples.get("error") or (), strict=False):
            if reason:
                failures.setdefault((cell["row"]["task"], doc_id), reason)
    cells = [_planned(cell, stored, cell.cell_id in files) for cell in stored.plan.values()]
    cells += [_finished(cell) for name, cell in files.items() if name not in stored.plan]
    started = min((writer.started for writer in stored.writers), default=None)
    speed = None if started is None else _speed(stored.commits, started)
    return Status(cells, failures, stored.writers, speed, stored.notices, jobs)


def _read_store(here: Path, jobs: Sequence[Job]) -> _Stored:
    stored, running = _Stored(), {job.name: job for job in jobs if job.state == RUNNING and not job.is_lost()}
    for number in store_numbers(here):
        path = here / f"{number}.sqlite"
        alive = lock_is_held(path.with_suffix(".lock"))
        try:
            if (connection := storefile.connect_if_there(path)) is None:
                continue
            with closing(connection):
                stored.read(connection, lambda _, alive=alive: alive)
        except sqlite3.DatabaseError as error:
            if storefile.is_damage(error):
                stored.notices.append(f"{path} is damaged ({error}): the next sweep salvages it")
            elif not storefile.is_unprepared(error):
                why = "a killed writer's unfinished transaction cannot be rolled back in a read-only folder"
                unfinished = path.with_name(f"{path.name}-journal").exists()
                raise OSError(f"cannot read {path}: {why if unfinished else error}") from error
    for path in job_store_files(here):
        job = running.get(path.parent.name)
        since = math.inf if job is None or job.started is None else job.started
        try:
            with storefile.snapshot(path) as connection:
                stored.read(connection, lambda one, since=since: one.started >= since)
        except sqlite3.DatabaseError as error:
            if not storefile.is_unprepared(error):
                stored.notices.append(f"{path} cannot be read now: {error}")
    return stored


def _planned(cell: PlannedCell, stored: _Stored, finished: bool) -> CellProgress:
    # Documents beyond this sweep's limit may be answered too.
    answered = min(len(stored.answered.get(cell[:3], ())), cell.documents)
    failed = min(len(stored.failed.get(cell[:3], ())), cell.documents - answered)
    labels = (cell.model, cell.task, cell.method, cell.budget)
    return CellProgress(*labels, answered, failed, cell.documents, finished, planned=True)


def _finished(cell: Mapping[str, Any]) -> CellProgress:
    row, documents = cell["row"], len(cell["samples"]["doc_id"])
    name = variant(row["method"], row["prompt"], row.get("ablation"), row.get("fraction"))
    labels, failed = (row["model"], row["task"], name, row["budget"]), row.get("n_failed") or 0
    return CellProgress(*labels, documents - failed, failed, documents, finished=True, planned=False)


def _speed(commits: Mapping[float, Sequence[tuple[str, str, int]]], started: float) -> Speed | None:
    """The last commits' speed; a single one's is taken from the writer's start, model loading included."""
    times = sorted(committed for committed in commits if committed >= started)[-COMMITS - 1 :]
    if not times:
        return None
    first, counted = (times[0], times[1:]) if len(times) > 1 else (started, times)
    minutes = max(times[-1] - first, 1e-3) / 60
    documents = [document for committed in counted for document in commits[committed]]
    return Speed(len(documents) / minutes, len(set(documents)) / minutes)


def print_status(folder: Path, status: Status, console: Console) -> None:
    """Print a table for each task, then failures, speed and writers."""

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    cells, done = status.cells, sum(cell.finished for cell in status.cells)
    say(f"{folder}: {done} of {len(cells)} cells are finished")
    models = {cell.model for cell in cells}
    for model, task in dict.fromkeys((cell.model, cell.task) for cell in cells):
        here = [cell for cell in cells if (cell.model, cell.task) == (model, task)]
        sizes, name = sorted({cell.documents for cell in here}), f", {model}" if len(models) > 1 else ""
        say(f"\n{task}{name}: answered of {' or '.join(map(str, sizes))} documents")
        console.print(_table(here, one_size=len(sizes) == 1))
    for notice in status.notices:
        say(notice)
    if failures := sorted(status.failures.items()):
        named = [f"{task} {doc_id} ({reason})" for (task, doc_id), reason in failures[:REASONS]]
        more = f", and {len(failures) - REASONS} more" if len(failures) > REASONS else ""
        say(f"{len(failures)} documents failed: {', '.join(named)}{more}")
    _print_jobs(status, say)
    names = {job.name for job in status.jobs}
    for writer in (writer for writer in status.writers if writer.job not in names):
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(writer.started))
        say(f"process {writer.pid} on {writer.host} has been writing since {since}")
    left = sum(cell.documents - cell.answered - cell.failed for cell in cells if not cell.finished)
    if not status.writers:
        say("no writer is running" + (f", {left} responses are missing" if left else ""))
    elif status.speed is None:
        say(f"nothing was answered since then, {left} responses are missing")
    else:
        speed, time_left = status.speed, _duration(left / status.speed.responses)
        per_minute = f"{speed.responses:.0f} responses and {speed.documents:.0f} documents a minute"
        say(f"{per_minute}, {left} responses are missing: about {time_left} left")


def _print_jobs(status: Status, say: Callable[[str], None]) -> None:
    """A line for each job of a multirun; those that are done in one."""
    done = [job for job in status.jobs if job.state == FINISHED]
    if done:
        say(f"{len(done)} of {len(status.jobs)} jobs are finished")
    for job in status.jobs:
        where = f"process {job.pid} on {job.host}" + (f", job {job.scheduled}" if job.scheduled else "")
        if job.state == WAITING:
            say(f"job {job.name} is waiting to start")
        elif job.is_lost():
            say(f"job {job.name} was killed ({where} is not there): the same command goes on")
        elif job.state == RUNNING:
            say(f"job {job.name} has been running for {_duration(_minutes_since(job.started))} ({where})")
        elif job.state == INTERRUPTED:
            say(f"job {job.name} was {job.reason}: it goes on when it is started again")
        elif job.state != FINISHED:
            say(f"job {job.name} failed: {job.reason}")


def _minutes_since(moment: float | None) -> float:
    return 0.0 if moment is None else max(0.0, time.time() - moment) / 60


def _table(cells: Sequence[CellProgress], *, one_size: bool) -> Table:
    """One task: methods as rows, budgets as columns."""
    budgets = sorted({cell.budget for cell in cells}, key=lambda budget: (budget is not None, budget or 0))
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("method \\ budget", no_wrap=True)
    for budget in budgets:
        table.add_column("all" if budget is None else str(budget), justify="right", no_wrap=True)
    for _, method in sorted({(cell.budget is not None, cell.method) for cell in cells}):
        row = [
            [cell for cell in cells if (cell.method, cell.budget) == (method, budget)] for budget in budgets
        ]
        table.add_row(method, *(_progress(slot, one_size=one_size) for slot in row))
    return table


def _progress(cells: Sequence[CellProgress], *, one_size: bool) -> str:
    """Cells of one method and budget; where some are planned, those of older sweeps are left out."""
    cells = [cell for cell in cells if cell.planned] or cells
    if not cells or all(cell.finished for cell in cells):
        return "done" if cells else ""
    answered, documents = sum(cell.answered for cell in cells), sum(cell.documents for cell in cells)
    return str(answered) if one_size and len(cells) == 1 else f"{answered}/{documents}"


def _duration(minutes: float) -> str:
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 60 else f"{int(minutes // 60)} h {int(minutes % 60)} min"
