"""Who writes into a results folder: one process for each store file, and what it plans to answer.

A writer holds the lock ``responses/<k>.lock`` for as long as its process lives: the kernel releases it, even
after ``kill -9``, and the next writer takes over the lock and the file. A job of a multirun may run on
another machine, where such locks need not hold: each of its processes writes a new file of its own,
``responses/<job>/<hex>.sqlite``, which no other process opens but to look.
"""

from __future__ import annotations

import itertools
import os
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from sparsemm.configs import InputError
from sparsemm.evaluation import storefile
from sparsemm.recording import make_folder

CLAIM_S = 300.0
"""How long to wait for another process that is just starting: it may be salvaging a large file."""

PROBE_S = 0.1
"""How long to try the lock of a file: ``sparsemm status`` holds it for an instant."""


class Lock(FileLock):
    """A class of its own: lmms-eval makes all `FileLock` of a path in a process one, held by whoever asks."""


class PlannedCell(NamedTuple):
    """What a writer is going to answer: a cell's documents.

    Attributes
    ----------
    run, cell, task : str
        As in `ResponseKey`.
    model, method : str
    budget : int, float or None
        Labels for ``sparsemm status``; None: nothing is evicted.
    cell_id : str
        Name of the cell's file.
    documents : int
    """

    run: str
    cell: str
    task: str
    model: str
    method: str
    budget: float | None
    cell_id: str
    documents: int


class Writer(NamedTuple):
    """A process that writes, or wrote, a store file; `started` in seconds since 1970.

    `job` is what processes that share documents have in common: a name if they are a multirun's job.
    """

    pid: int
    host: str
    job: str | None
    started: float


@dataclass(frozen=True, eq=False)
class Claim:
    """A store file that this process may write; files without a writer that are damaged, and how."""

    path: Path
    lock: Lock | None
    connection: sqlite3.Connection
    damaged: dict[Path, str]

    def register(self, planned: Sequence[PlannedCell], job: str | None) -> None:
        """Say who writes the file, and what."""
        with storefile.transaction(self.connection) as connection:
            connection.execute("DELETE FROM writer")
            connection.execute("DELETE FROM plan")
            writer = Writer(os.getpid(), socket.gethostname(), job, time.time())
            connection.execute("INSERT INTO writer VALUES (?, ?, ?, ?)", writer)
            connection.executemany("INSERT INTO plan VALUES (?, ?, ?, ?, ?, ?, ?, ?)", planned)

    def release(self) -> None:
        """Stop being the writer."""
        self.connection.close()
        if self.lock is not None:
            self.lock.release()


@contextmanager
def claim(folder: Path, planned: Sequence[PlannedCell], job: str | None) -> Iterator[Claim]:
    """Take the first store file without a writer; within the context nobody else can start or claim one.

    The file stays claimed after the context if that ends well.

    Raises
    ------
    InputError
        Another process that is alive and not of this job plans some of the same cells.
    """
    here = store_files_folder(folder)
    make_folder(here)
    try:
        starting = Lock(here / "claim.lock").acquire(timeout=CLAIM_S)
    except Timeout:
        raise InputError(f"another process has been starting in {folder} for {CLAIM_S:.0f} s") from None
    with starting:
        free: dict[int, Lock] = {}
        try:
            for number in store_numbers(here):
                if (lock := _try_lock(here, number)) is not None:
                    free[number] = lock
                else:
                    _refuse_same_cells(here / f"{number}.sqlite", planned, job, folder)
            files = {number: here / f"{number}.sqlite" for number in free}
            reasons = {number: storefile.damage(file) for number, file in files.items() if file.exists()}
            damaged = {number: reason for number, reason in reasons.items() if reason}
            own = _first_number(here, free, damaged)
            if own not in free:
                free[own] = Lock(here / f"{own}.lock", thread_local=False)
                free[own].acquire(timeout=PROBE_S)
            connection = storefile.connect(here / f"{own}.sqlite", create=True)
            try:
                storefile.prepare(connection)
                broken = {files[number]: reason for number, reason in damaged.items()}
                yield Claim(here / f"{own}.sqlite", free[own], connection, broken)
            except BaseException:
                connection.close()
                raise
            del free[own]
        finally:
            for lock in free.values():
                lock.release()


def claim_alone(folder: Path, job: str) -> Claim:
    """Make a store file for this process alone, of which no lock has to tell others.

    Parameters
    ----------
    folder : Path
        The results folder.
    job : str
        Name of the multirun's job that this process belongs to.
    """
    here = store_files_folder(folder) / job
    make_folder(here)
    path = here / f"{uuid.uuid4().hex[:16]}.sqlite"
    connection = storefile.connect(path, create=True, options="&nolock=1")
    try:
        storefile.prepare(connection)
    except BaseException:
        connection.close()
        raise
    return Claim(path, None, connection, {})


def store_files_folder(folder: Path) -> Path:
    """Where a results folder's store files lie."""
    return Path(folder) / "responses"


def store_numbers(here: Path) -> list[int]:
    """Numbers of the store files that are there, or of their locks, ascending."""
    files = (*here.glob("*.sqlite"), *here.glob("*.lock"))
    return sorted({int(file.stem) for file in files if file.stem.isdecimal()})


def job_store_files(here: Path) -> list[Path]:
    """Store files of a multirun's jobs: to be looked at by `sparsemm.evaluation.storefile.snapshot` alone."""
    return sorted(here.glob("*/*.sqlite"))


def lock_is_held(lock: Path) -> bool:
    """Whether a store file's writer is alive; works in a read-only folder, where `FileLock` would not."""
    import fcntl

    if not lock.is_file():  # a pipe would be waited for
        return False
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def read_writer(connection: sqlite3.Connection) -> Writer | None:
    """Who claimed a store file last."""
    row = connection.execute("SELECT pid, host, job, started FROM writer").fetchone()
    return row and Writer(*row)


def read_plan(connection: sqlite3.Connection) -> list[PlannedCell]:
    """What that writer planned."""
    columns = ", ".join(PlannedCell._fields)
    return [PlannedCell(*row) for row in connection.execute(f"SELECT {columns} FROM plan")]


def _try_lock(here: Path, number: int) -> Lock | None:
    lock = Lock(here / f"{number}.lock", thread_local=False)
    try:
        lock.acquire(timeout=PROBE_S, poll_interval=PROBE_S / 5)
    except Timeout:
        return None
    return lock


def _first_number(here: Path, free: dict[int, Lock], damaged: dict[int, str]) -> int:
    """The lowest number whose file is sound and free, or not there yet.

    A number whose file was put aside is not used again: a process that is still reading that file would take
    the new file's journal for its own, and roll it back.
    """
    taken = {*store_numbers(here), *damaged} - (free.keys() - damaged.keys())

    def used_up(file: Path) -> bool:
        return not file.exists() and file.with_name(f"{file.name}.damaged").exists()

    numbers = (number for number in itertools.count() if number not in taken)
    return next(number for number in numbers if not used_up(here / f"{number}.sqlite"))


def _refuse_same_cells(path: Path, planned: Sequence[PlannedCell], job: str | None, folder: Path) -> None:
    """Raise if the living writer of a file plans some of the same cells, and is not of the same job."""
    try:
        with closing(storefile.connect(path)) as connection:
            writer, theirs = read_writer(connection), read_plan(connection)
    except sqlite3.DatabaseError as error:
        raise InputError(f"another process writes to {path}, and its plan cannot be read: {error}") from error
    same = {cell[:3] for cell in planned} & {cell[:3] for cell in theirs}
    if writer is not None and same and (job is None or job != writer.job):
        raise InputError(
            f"process {writer.pid} on {writer.host} is answering {len(same)} of the {len(planned)} cells in "
            f"{folder} already: wait until it has ended, or give another output folder"
        )
