"""The response store of a results folder: every response is durable once it is committed.

``responses/0.sqlite``, ``responses/1.sqlite``, … hold one writer's responses each and are read as one; so are
``responses/<job>/<hex>.sqlite``, those of a multirun's jobs. They are scratch, for going on after an
interruption: what a finished cell says stands in its own file.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from sparsemm.evaluation import storefile
from sparsemm.evaluation.responses import Response, ResponseKey
from sparsemm.evaluation.writers import (
    Claim,
    PlannedCell,
    claim,
    claim_alone,
    job_store_files,
    store_files_folder,
    store_numbers,
)

__all__ = ["PlannedCell", "ResponseStore", "answered"]


class ResponseStore:
    """The responses of a results folder, opened for writing. A context manager.

    Attributes
    ----------
    folder : Path
        The results folder.
    path : Path
        The store file that this writer owns.
    notices : list of str
        What the user should be told: damaged files that were found, and what was salvaged.
    """

    def __init__(self, folder: Path, claimed: Claim) -> None:
        self.folder = folder
        self.path = claimed.path
        self.notices: list[str] = []
        self._claimed = claimed
        self._connection = claimed.connection
        self._looked_at: list[Path] = []

    @classmethod
    def open(cls, folder: Path, planned: Sequence[PlannedCell], *, job: str | None = None) -> Self:
        """Become a writer of a results folder.

        Parameters
        ----------
        folder : Path
            ``results/<experiment>``; made if it is not there.
        planned : sequence of PlannedCell
            What this process is going to answer.
        job : str, optional
            Shared by processes that were started together and divide the documents among themselves, and by
            no others.

        Raises
        ------
        InputError
            Another process that is alive and not of this job plans some of the same cells.
        OSError
            The folder cannot be written.
        """
        folder = Path(folder)
        with _one_line(folder), claim(folder, planned, job) as claimed:
            store = cls(folder, claimed)
            for path, reason in claimed.damaged.items():
                store._take_over(path, reason)
            claimed.register(planned, job)
            store._look(planned)
        return store

    @classmethod
    def open_alone(cls, folder: Path, planned: Sequence[PlannedCell], job: str) -> Self:
        """Become a writer of a results folder to which others may write from other machines.

        No file is shared and no lock is taken. What others have answered is looked up once, now.

        Parameters
        ----------
        folder, planned
            As in `open`.
        job : str
            Name of the multirun's job that this process belongs to.

        Raises
        ------
        OSError
            The folder cannot be written.
        """
        folder = Path(folder)
        with _one_line(folder):
            claimed = claim_alone(folder, job)
            store = cls(folder, claimed)
            try:
                claimed.register(planned, job)
                store._look(planned)
            except BaseException:
                store.close()
                raise
        return store

    def close(self) -> None:
        """Stop being a writer. The file stays: the next writer goes on with it."""
        self._claimed.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def missing(self, run: str, cell: str, task: str, doc_ids: Iterable[int]) -> list[int]:
        """Those of the documents that no writer has answered yet, in the given order; failed ones too."""
        keys = [ResponseKey(run, cell, task, doc_id) for doc_id in doc_ids]
        with _one_line(self.folder):
            known = self._known(keys)
        return [key.doc_id for key in keys if not known.get(key)]

    def responses(self, run: str, cell: str, task: str) -> dict[int, Response]:
        """All writers' responses of a cell, by document.

        A success wins over a failure; among equals, the lowest file's is taken.
        """
        found: dict[int, Response] = {}
        with _one_line(self.folder):
            for connection in self._connections(self._elsewhere()):
                for row in filter(storefile.valid, self._select(connection, run, cell, task)):
                    key, response = storefile.decode(row)
                    held = found.get(key.doc_id)
                    if held is None or (held.error is not None and response.error is None):
                        found[key.doc_id] = response
        return dict(sorted(found.items()))

    def commit(self, rows: Iterable[tuple[ResponseKey, Response]]) -> None:
        """Store responses: all of them or none. They are durable when this returns.

        What any writer has answered already is left as it is, but a success replaces a failure.

        Raises
        ------
        OSError
            They could not be written (the disk is full, …); what was committed before is kept.
        """
        with _one_line(self.folder):
            self._commit(rows, committed=time.time())

    def _commit(self, rows: Iterable[tuple[ResponseKey, Response]], *, committed: float) -> None:
        wanted: dict[ResponseKey, Response] = {}
        for key, response in rows:
            if key not in wanted or wanted[key].error is not None:
                wanted[key] = response
        known = self._known(wanted)
        new = [
            (*storefile.encode(key, response), committed)
            for key, response in wanted.items()
            if key not in known or (response.error is None and not known[key])
        ]
        with storefile.transaction(self._connection) as connection:
            connection.executemany(storefile.INSERT, new)

    def _take_over(self, damaged: Path, reason: str) -> None:
        """Copy what can be read of a damaged file to the own one, then put the former aside."""
        rows = storefile.salvage(damaged)
        self._commit(rows, committed=0.0)
        aside = storefile.put_aside(damaged)
        self.notices.append(
            f"{damaged} was damaged ({reason}): {len(rows)} of its responses could be read and are kept, "
            f"the others are computed again; the file is now {aside.name}"
        )

    def _known(self, keys: Iterable[ResponseKey]) -> dict[ResponseKey, bool]:
        """Which keys have a valid row anywhere; true: answered, false: failed."""
        documents: dict[tuple[str, str, str], list[int]] = {}
        for run, cell, task, doc_id in keys:
            documents.setdefault((run, cell, task), []).append(doc_id)
        known: dict[ResponseKey, bool] = {}
        for connection in self._connections(self._looked_at) if documents else ():
            for group, doc_ids in documents.items():
                for row in self._select(connection, *group, min(doc_ids), max(doc_ids)):
                    if storefile.valid(row):
                        key = ResponseKey(*row[:4])
                        known[key] = known.get(key, False) or not row[4]
        return known

    def _elsewhere(self) -> list[Path]:
        """Files that are only looked at: those of jobs, and for a job all but its own."""
        here = store_files_folder(self.folder)
        shared = () if self._claimed.lock else (here / f"{number}.sqlite" for number in store_numbers(here))
        return [path for path in (*shared, *job_store_files(here)) if path != self.path and path.exists()]

    def _look(self, planned: Sequence[PlannedCell]) -> None:
        """Find the files elsewhere that hold some response of the cells: the others need no second look."""
        for path in self._elsewhere():
            with storefile.snapshot(path) as connection:
                if any(self._select(connection, *cell[:3]) for cell in planned):
                    self._looked_at.append(path)

    def _connections(self, elsewhere: Sequence[Path]) -> Iterator[sqlite3.Connection]:
        """A connection to each file in turn, without those that are being salvaged.

        Another writer's is closed again at once: a damaged file may be put aside at any time.
        """
        if self._claimed.lock is None:
            yield self._connection
        else:
            here = store_files_folder(self.folder)
            for number in store_numbers(here):
                path = here / f"{number}.sqlite"
                if path == self.path:
                    yield self._connection
                elif path not in self._claimed.damaged and (connection := storefile.connect_if_there(path)):
                    with closing(connection):
                        yield connection
        for path in elsewhere:
            with storefile.snapshot(path) as connection:
                yield connection

    def _select(
        self,
        connection: sqlite3.Connection,
        run: str,
        cell: str,
        task: str,
        first: int = 0,
        last: int = 2**63 - 1,
    ) -> list[tuple[Any, ...]]:
        """Rows of a cell in one file; none if that is another writer's and damaged."""
        try:
            return connection.execute(storefile.SELECT, (run, cell, task, first, last)).fetchall()
        except sqlite3.DatabaseError as error:
            if storefile.is_unprepared(error):
                return []
            if connection is self._connection or not storefile.is_damage(error):
                raise
            notice = (
                f"a store file of another process in {store_files_folder(self.folder)} is damaged ({error}): "
                "what cannot be read of it is computed again"
            )
            if notice not in self.notices:
                self.notices.append(notice)
            return []


def answered(folder: Path, run: str, cell: str, task: str) -> set[int]:
    """Documents of a cell that some writer has answered; for those who look without becoming a writer."""
    here = store_files_folder(Path(folder))
    documents: set[int] = set()

    def read(connection: sqlite3.Connection) -> None:
        try:
            rows = connection.execute(storefile.SELECT, (run, cell, task, 0, 2**63 - 1)).fetchall()
        except sqlite3.DatabaseError as error:
            if not (storefile.is_unprepared(error) or storefile.is_damage(error)):
                raise
            return  # what cannot be read will be computed again
        documents.update(row[3] for row in rows if storefile.valid(row) and not row[4])

    with _one_line(folder):
        for number in store_numbers(here):
            if connection := storefile.connect_if_there(here / f"{number}.sqlite"):
                with closing(connection):
                    read(connection)
        for path in job_store_files(here):
            with storefile.snapshot(path) as connection:
                read(connection)
    return documents


@contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """Say in one line which folder's responses could not be stored or read, and why."""
    here = store_files_folder(folder)
    try:
        yield
    except sqlite3.Error as error:
        raise OSError(f"cannot store or read responses in {here}: {error}") from error
    except OSError as error:
        raise OSError(f"cannot store responses in {here}: {error.strerror or error}") from error
