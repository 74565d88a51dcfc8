"""Real sweeps in real processes: killed at any moment, or several at once, they give the same files."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sparsemm import cli

DOCUMENTS = 8
GRID = ["task=[tiny_ocr]", "method=[fullkv,snapkv,adakv]", "budget=[12,24]", f"limit={DOCUMENTS}"]
GRID += ["batch_size=1", "max_new_tokens=24", "name=run"]
CELLS = 5


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Path:
    """Results of an uninterrupted sweep."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["sweep", f"model.pretrained={untrained}", "model.window=8", *GRID]) == 0
    return folder / "results/run"


def command(untrained: Path, *launcher: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        *(launcher or ["sparsemm"]),
        "sweep",
        f"model.pretrained={untrained}",
        "model.window=8",
        *GRID,
    ]


def stored(results: Path) -> Counter[tuple]:
    """How often each response stands in any store file."""
    found: Counter[tuple] = Counter()
    for path in (results / "responses").glob("*.sqlite"):
        with closing(sqlite3.connect(path)) as connection:
            found.update(connection.execute("SELECT run, cell, task, doc_id FROM response").fetchall())
    return found


def responses(results: Path) -> int:
    try:
        return len(stored(results))
    except sqlite3.Error:  # the file is just being made
        return 0


def cells(results: Path) -> int:
    return len([*(results / "cells").glob("*.json")])


def kill_when(process: subprocess.Popen, reached: Callable[[], bool], delay: float) -> None:
    deadline = time.monotonic() + 240
    while not reached() and process.poll() is None:
        assert time.monotonic() < deadline, "the sweep makes no progress"
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_sweeps_go_on_and_end_with_the_same_files(expected: Path, untrained: Path, tmp_path: Path):
    results, chance = tmp_path / "results/run", random.Random(3)
    some = chance.randrange(1, DOCUMENTS)
    moments: list[Callable[[], bool]] = [
        lambda: responses(results) >= some * CELLS,
        lambda: cells(results) >= 2,
    ]
    for reached in moments:
        before = responses(results)
        process = subprocess.Popen(command(untrained), cwd=tmp_path, stderr=subprocess.DEVNULL)
        kill_when(process, reached, delay=chance.random() / 20)
        assert process.returncode == -signal.SIGKILL, "it was over before it was killed"
        assert responses(results) % CELLS == 0, "half a batch"
        assert responses(results) >= before
    assert 0 < cells(results) < CELLS
    ended = subprocess.run(command(untrained), cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for name in ("cells.csv", "samples.parquet", "allocations.parquet"):
        assert (results / name).read_bytes() == (expected / name).read_bytes(), name
    assert set(stored(results).values()) == {1}
    assert len(stored(results)) == DOCUMENTS * CELLS


@pytest.mark.slow
def test_two_processes_share_the_documents(expected: Path, untrained: Path, tmp_path: Path):
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "sparsemm"]
    ended = subprocess.run(
        command(untrained, *launcher),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    results = tmp_path / "results/run"
    for name in ("cells.csv", "samples.parquet", "allocations.parquet"):
        assert (results / name).read_bytes() == (expected / name).read_bytes(), name
    shares = []
    for path in sorted((results / "responses").glob("*.sqlite")):
        with closing(sqlite3.connect(path)) as connection:
            query = "SELECT DISTINCT doc_id FROM response ORDER BY doc_id"
            shares.append([doc_id for (doc_id,) in connection.execute(query)])
    assert sorted(shares) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert ended.stdout.count("holds 5 cells") == 1  # one of them says what was found
