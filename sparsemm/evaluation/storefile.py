"""One store file: an SQLite database with the responses of one writer, each with a checksum.

A rollback journal, not WAL, which is unsafe on network file systems. A file is never read but through
SQLite: closing another handle on it would drop SQLite's own locks.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from sparsemm.configs import InputError
from sparsemm.evaluation.responses import Response, ResponseKey

VERSION = 2
"""Raised whenever a table or a response changes its meaning; what was stored under 1 is read too."""

TABLES = ("response", "plan", "writer")
COLUMNS = "run, cell, task, doc_id, failed, content, checksum"
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS response (
    run TEXT NOT NULL, cell TEXT NOT NULL, task TEXT NOT NULL, doc_id INTEGER NOT NULL,
    failed INTEGER NOT NULL,   -- 1: the document could not be answered
    content TEXT NOT NULL,     -- the fields of a Response and the version that stored it (1: none), JSON
    checksum BLOB NOT NULL,    -- of all of the above
    committed REAL NOT NULL,   -- seconds since 1970; 0: taken over from a damaged file
    UNIQUE (run, cell, task, doc_id)
);
CREATE TABLE IF NOT EXISTS plan (run, cell, task, model, method, budget, cell_id, documents);
CREATE TABLE IF NOT EXISTS writer (pid, host, job, started);
PRAGMA user_version = {VERSION};
"""

SELECT = f"""
SELECT {COLUMNS} FROM response WHERE run = ? AND cell = ? AND task = ? AND doc_id BETWEEN ? AND ?
"""
# The row of a failure, or one with a wrong checksum, is overwritten where it stands.
INSERT = f"""
INSERT INTO response ({COLUMNS}, committed) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run, cell, task, doc_id) DO UPDATE SET failed = excluded.failed, content = excluded.content,
    checksum = excluded.checksum, committed = excluded.committed
"""

BUSY_S = 60.0
"""How long to wait for another process's commit, which takes a fraction of a second."""

_FIELDS = tuple(field.name for field in fields(Response))
_SMALLEST_ROW = 200
"""Bytes; no row is smaller. It bounds how many rows a file can hold."""


def connect(path: Path, *, create: bool = False, options: str = "") -> sqlite3.Connection:
    """Open a store file; a killed writer's unfinished transaction is rolled back by the first read.

    Parameters
    ----------
    path : Path
    create : bool, default False
    options : str, optional
        Of SQLite's URI: ``&nolock=1`` for a file that no other process opens.

    Raises
    ------
    sqlite3.OperationalError
        There is no such file and `create` is false, or it cannot be opened.
    InputError
        A newer sparsemm wrote it.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise sqlite3.OperationalError("it is no file")
    if create:
        path.touch()  # with the permissions of all other files, which SQLite's own are not
    # rw: read-only where it must be
    uri = f"{path.resolve().as_uri()}?mode={'rwc' if create else 'rw'}{options}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
    # A flipped bit may be no UTF-8: the checksum is to find it, not an exception in the middle of a query.
    connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
    try:
        [(version,)] = connection.execute("PRAGMA user_version").fetchall()
    except sqlite3.Error:  # damaged or locked: whoever reads rows is told so
        return connection
    if version > VERSION:
        connection.close()
        raise InputError(
            f"{path} was written by a newer sparsemm (store {version}, this one knows {VERSION}): update "
            "sparsemm, or name another output folder"
        )
    return connection


def connect_if_there(path: Path) -> sqlite3.Connection | None:
    """`connect`, or None if there is no such file: it may be put aside at any time."""
    try:
        return connect(path)
    except sqlite3.OperationalError:
        if path.exists():
            raise
        return None


@contextmanager
def snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """Look at a file that a process on another machine may be writing: it is not touched, no lock is taken.

    Half of a commit may be seen. Rows have checksums, and what cannot be read is found as damage is. What a
    killed writer left unfinished is rolled back in a copy.
    """
    journal = path.with_name(f"{path.name}-journal")
    with ExitStack() as stack:
        here, options = path, "&immutable=1"
        if journal.exists():
            here, options = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name, ""
            for file, copy in ((journal, here.with_name(journal.name)), (path, here)):
                if file.exists():
                    shutil.copyfile(file, copy)
        yield stack.enter_context(closing(connect(here, options=options)))


def prepare(connection: sqlite3.Connection) -> None:
    """Make a connection the writer's: durable commits, tables there."""
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA synchronous = EXTRA")  # FULL, and the journal's removal is durable too
    connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing; durable when the context ends."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def encode(key: ResponseKey, response: Response) -> tuple[Any, ...]:
    """A row: the values of `COLUMNS`."""
    fields = {"version": VERSION, **{name: getattr(response, name) for name in _FIELDS}}
    content = json.dumps(fields, separators=(",", ":"))
    stated = (*key, int(response.error is not None), content)
    return (*stated, _checksum(stated))


def valid(row: tuple[Any, ...]) -> bool:
    """Whether a row is what was once written."""
    return row[-1] == _checksum(row[:-1])


def decode(row: tuple[Any, ...]) -> tuple[ResponseKey, Response]:
    """The inverse of `encode`, for valid rows."""
    content = json.loads(row[5])
    if content.pop("version", 1) < 2:  # shares of a batch's bytes, which depend on the batch
        content["kv_bytes"] = content["full_kv_bytes"] = None
    content["tokens"] = tuple(content["tokens"])
    content["realised_per_layer"] = tuple(content["realised_per_layer"])
    return ResponseKey(*row[:4]), Response(**content)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error says that a file's content is broken, not that it cannot be reached."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says where it was found
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_unprepared(error: sqlite3.Error) -> bool:
    """Whether a file has no tables yet: its writer is just starting, or was killed before it had any."""
    return str(error).startswith("no such table")


def damage(path: Path) -> str | None:
    """What is broken in a file that no writer holds, or None.

    Raises
    ------
    sqlite3.Error
        The file cannot be reached.
    """
    connection = connect(path)
    try:
        [(first,)] = connection.execute("PRAGMA integrity_check(1)").fetchall()
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        return str(error)
    finally:
        connection.close()
    if first != "ok":
        return " ".join(first.split())
    # A process that was killed before its first transaction leaves a file without tables: that is sound.
    return "not a response store" if tables and not tables.issuperset(TABLES) else None


def salvage(path: Path) -> list[tuple[ResponseKey, Response]]:
    """The responses of a damaged file that can be read and have the right checksum."""
    connection = connect(path)
    try:
        # Without this, SQLite refuses a file that is shorter than its header says.
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("PRAGMA query_only = ON")
        return [decode(row) for row in _rows_one_by_one(connection, path.stat().st_size) if valid(row)]
    except sqlite3.DatabaseError as error:
        if not is_damage(error) and not is_unprepared(error):
            raise
        return []
    finally:
        connection.close()


def put_aside(path: Path) -> Path:
    """Rename a damaged file to ``<name>.damaged``, its journal with it; nothing is overwritten."""
    names = itertools.chain([".damaged"], (f".damaged.{number}" for number in itertools.count(1)))
    aside = next(new for name in names if not (new := path.with_name(path.name + name)).exists())
    if (journal := path.with_name(f"{path.name}-journal")).exists():
        journal.rename(aside.with_name(f"{aside.name}-journal"))
    return path.rename(aside)


def _rows_one_by_one(connection: sqlite3.Connection, size: int) -> Iterator[tuple[Any, ...]]:
    """Look up rows by number, so that a broken page costs no rows but its own."""
    number, last = 0, 0
    while number - last <= size // _SMALLEST_ROW + 1:
        number += 1
        try:
            found = connection.execute(
                f"SELECT {COLUMNS} FROM response NOT INDEXED WHERE rowid = ?", (number,)
            )
            row = found.fetchone()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            continue
        if row is not None:
            last = number
            yield row


def _checksum(stated: tuple[Any, ...]) -> bytes:
    return hashlib.blake2b("\x1f".join(map(str, stated)).encode(), digest_size=16).digest()
