"""Commands that must fail with one clear line, real faults of a disk, and what lies in a folder."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from sparsemm import cli

GRID = [
    "task=[tiny_ocr]",
    "method=[fullkv,snapkv]",
    "budget=[16]",
    "limit=3",
    "batch_size=2",
    "max_new_tokens=8",
]


def sweep(untrained: Path, *overrides: str) -> list[str]:
    """A sweep of two cells and three documents."""
    return ["sweep", f"model.pretrained={untrained}", "model.window=8", *GRID, *overrides]


def one_line(shown: str) -> str:
    """The line that says what was wrong: the last one, and the only one."""
    lines = shown.splitlines()
    assert [line for line in lines if line.startswith("sparsemm: ")] == lines[-1:], shown
    assert "Traceback" not in shown
    return lines[-1]


def refused(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """Run a command that must fail before it does anything: its only line."""
    capfd.readouterr()
    assert cli.main(arguments) == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1, shown.err
    return one_line(shown.err)


def process(arguments: list[str], folder: Path) -> subprocess.Popen[str]:
    """The command line in a process of its own.

    It heeds Ctrl-C even if the tests run in the background of a shell, which lets its jobs ignore that.
    """
    command, pipe = [sys.executable, "-m", "sparsemm", *arguments], subprocess.PIPE
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=pipe,
        stderr=pipe,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, but for the locks, which are empty."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def temporary(folder: Path) -> list[Path]:
    """Files that are only there while another is being written."""
    return [
        path for path in folder.rglob("*") if path.name.startswith(".") or path.suffix in (".tmp", ".part")
    ]


def stored(results: Path) -> list[tuple]:
    """(cell, doc_id, failed) of each response in the store files; none if they are just being made."""
    rows: list[tuple] = []
    for file in (results / "responses").glob("*.sqlite"):
        try:
            with closing(sqlite3.connect(file)) as connection:
                rows += connection.execute("SELECT cell, doc_id, failed FROM response").fetchall()
        except sqlite3.OperationalError:
            continue
    return rows


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small disk in the memory."""
    folder.mkdir(exist_ok=True)
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount")
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this container may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Give the disk other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def without(column: str) -> Callable[[Path], object]:
    """Takes a column out of a parquet file."""
    return lambda file: pq.write_table(pq.read_table(file).drop_columns([column]), file)
