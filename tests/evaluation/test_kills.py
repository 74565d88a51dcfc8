"""Killed at any moment, a sweep goes on where it stopped: nothing is lost, nothing is doubled."""

import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

from tests.evaluation import store_worker

KILLS = 17
ROWS = len(store_worker.METHODS) * store_worker.BATCH
"""Responses in one commit."""


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, store_worker.__file__, "fill", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def stored(folder: Path, copy: Path) -> Counter[tuple[str, int]]:
    """Rows of each batch, over all files.

    They are read from a copy: reading rolls back what was not committed, and that is the next process's work.
    """
    shutil.copytree(folder / "responses", copy)
    keys = []
    for file in copy.glob("*.sqlite"):
        with closing(sqlite3.connect(file)) as connection:
            if connection.execute("SELECT name FROM sqlite_master WHERE name = 'response'").fetchall():
                keys += connection.execute("SELECT run, cell, task, doc_id FROM response").fetchall()
    assert len(keys) == len(set(keys))
    return Counter((task, doc_id - doc_id % store_worker.BATCH) for _, _, task, doc_id in keys)


def test_seventeen_kills(tmp_path: Path) -> None:
    assert start(whole := tmp_path / "whole").wait() == 0
    killed, draw = tmp_path / "killed", random.Random(3)
    steps = len(store_worker.TASKS) * (
        store_worker.DOCUMENTS // store_worker.BATCH + len(store_worker.METHODS)
    )
    reported: list[tuple[str, int]] = []
    seen: Counter[str] = Counter()
    done = 0
    for number, moment in enumerate(sorted(draw.sample(range(steps - 3), KILLS))):
        process = start(killed)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(1 + max(0, moment - done))]  # the first: "open"
        time.sleep(draw.uniform(0, 0.02))
        process.kill()
        for verb, *rest in map(str.split, [*lines, *process.stdout]):
            seen[verb] += 1
            if verb == "stored":
                reported.append((rest[0], int(rest[1])))
        assert process.wait() == -9, "it ended before it was killed"
        batches = stored(killed, tmp_path / f"copy-{number}")
        assert set(batches.values()) <= {ROWS}  # no half batch
        assert set(reported) <= set(batches)  # what was reported is there
        done = len(batches) + len(list((killed / "cells").glob("*.json")))
    assert done > 0.9 * steps
    assert set(seen) == {"open", "stored", "cell", "tables"}
    assert start(killed).wait() == 0
    assert len(reported) == len(set(reported))  # nothing was computed twice
    batches = stored(killed, tmp_path / "copy")
    assert len(batches) == len(store_worker.TASKS) * store_worker.DOCUMENTS // store_worker.BATCH
    assert [file.name for file in (killed / "responses").glob("*.sqlite*")] == ["0.sqlite"]
    for name in ("cells.csv", "samples.parquet"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes()
