"""`sparsemm status`: what another process sees of a sweep."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from sparsemm import cli
from sparsemm.evaluation.results import write_cell
from sparsemm.evaluation.status import print_status, read_status
from sparsemm.evaluation.store import ResponseStore
from tests.evaluation import store_worker
from tests.evaluation.store_worker import batch, made, scored
from tests.evaluation.test_store import CELLS, FAILED, FIRST, OTHER, filled, key, mounted, overwrite, worker


def shown(folder: Path) -> str:
    console = Console(width=100, highlight=False)
    with console.capture() as capture:
        print_status(folder, read_status(folder), console)
    return capture.get()


def finish(folder: Path, cell, failed=()) -> None:
    answers = {doc_id: FAILED if doc_id in failed else made(key(cell, doc_id)) for doc_id in range(40)}
    write_cell(folder, cell.cell_id, "group", *scored(cell, answers))


def test_a_running_sweep(tmp_path):
    with worker("fill", tmp_path) as running:
        assert running.stdout is not None
        answered = 0
        while answered < 50:
            running.stdout.readline()
            status = read_status(tmp_path)
            now = sum(cell.answered for cell in status.cells)
            assert now >= answered
            answered = now
        [writer] = status.writers
        assert writer.pid == running.pid
        assert time.time() - 60 < writer.started < time.time()
        assert status.speed is not None
        assert status.speed.responses == pytest.approx(4 * status.speed.documents)  # four methods
        text = shown(tmp_path)
        assert f"process {running.pid} on {writer.host} has been writing since " in text
        assert " responses are missing: about " in text
    status = read_status(tmp_path)
    assert (status.writers, status.speed) == ([], None)
    assert "no writer is running, " in shown(tmp_path)


def test_progress_failures_and_speed(tmp_path):
    with (
        ResponseStore.open(tmp_path, CELLS, job="j") as one,
        ResponseStore.open(tmp_path, CELLS, job="j") as two,
    ):
        one.commit([(key(cell, 0), FAILED) for cell in CELLS[:4]])
        assert read_status(tmp_path).speed is not None
        time.sleep(0.3)
        two.commit(batch(CELLS[:4], [0, 1]))  # 0 could be answered after all
        one.commit([*batch([FIRST], [2]), (key(OTHER, 3), FAILED), (key(FIRST, 3), FAILED)])
        finish(tmp_path, OTHER, failed=[39])
        status = read_status(tmp_path)
        assert [(cell.answered, cell.failed, cell.finished) for cell in status.cells] == [
            *[(3, 1, False), (2, 1, True), (2, 0, False), (2, 0, False)],
            *[(0, 0, False)] * 8,
        ]
        assert status.failures == {("look_up", 3): "unreadable image", ("look_up", 39): "unreadable image"}
        assert len(status.writers) == 2
        assert status.speed is not None
        assert 8 < status.speed.responses < 11 / 0.3 * 60  # the first commit only starts the clock
    text = shown(tmp_path)
    assert "1 of 12 cells are finished" in text
    assert "look_up: answered of 40 documents" in text
    [line] = [line for line in text.splitlines() if line.startswith((" fullkv", "fullkv"))][:1]
    assert line.split() == ["fullkv", "3"]
    assert "2 documents failed: look_up 3 (unreadable image), look_up 39 (unreadable image)\n" in text
    assert f"no writer is running, {12 * 40 - 3 - 1 - 40 - 2 - 2} responses are missing" in text


def test_finished_results_need_no_store(tmp_path):
    for cell in CELLS:
        finish(tmp_path, cell)
    text = shown(tmp_path)
    assert "12 of 12 cells are finished" in text
    assert text.count("done") == 12
    assert text.endswith("no writer is running\n")
    assert not (tmp_path / "responses").exists()


def test_an_older_sweeps_cells_are_not_mixed_in(tmp_path):
    finish(tmp_path, FIRST._replace(cell_id="older"))
    filled(tmp_path, range(5))
    [line] = [line for line in shown(tmp_path).splitlines() if line.strip().startswith("fullkv")][:1]
    assert line.split() == ["fullkv", "5"]


def test_a_damaged_file_is_named(tmp_path):
    file = filled(tmp_path)
    overwrite(file, 4096)
    assert f"{file} is damaged (file is not a database): the next sweep salvages it" in shown(tmp_path)


def test_read_only_folder(tmp_path):
    with mounted(folder := tmp_path / "fixed", "size=16m"):
        filled(folder)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        assert sum(cell.answered for cell in read_status(folder).cells) == 40 * len(CELLS)
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        assert subprocess.run([sys.executable, store_worker.__file__, "tear", str(folder)]).returncode == -9
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(OSError, match="cannot be rolled back in a read-only folder"):
            read_status(folder)


def test_on_the_command_line(tmp_path, capsys):
    filled(tmp_path)
    assert cli.main(["status", str(tmp_path)]) == 0
    assert "0 of 12 cells are finished" in capsys.readouterr().out
    assert cli.main(["status", str(tmp_path / "nowhere")]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"sparsemm: no results at {tmp_path / 'nowhere'}: it has neither cells/ nor responses/"
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "cells.csv").write_text("model\n")
    assert cli.main(["status", str(tmp_path / "kept")]) == 2
    assert "only tables of a finished sweep at " in capsys.readouterr().err


def test_no_speed_before_the_first_commit(tmp_path):
    with ResponseStore.open(tmp_path, CELLS):
        assert read_status(tmp_path).speed is None
        assert "480 responses are missing" in shown(tmp_path)
