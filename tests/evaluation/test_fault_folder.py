"""Results folders that cannot be written, are damaged, or in use; sweeps that are interrupted."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sparsemm import cli
from tests.evaluation.provoking import (
    contents,
    mounted,
    one_line,
    process,
    refused,
    remount,
    stored,
    sweep,
    temporary,
)

TABLES = ("cells.csv", "samples.parquet")
LONG = ["method=[fullkv,snapkv,adakv]", "budget=[12,16]", "limit=6", "batch_size=1", "max_new_tokens=64"]
"""Answered for seconds: there is a middle of it."""


def tables(results: Path) -> list[bytes]:
    return [(results / name).read_bytes() for name in TABLES]


def swept(folder: Path, arguments: list[str]) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(arguments) == 0
    return folder / "results/sweep"


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Path:
    """Results of a sweep of two cells."""
    return swept(tmp_path_factory.mktemp("short"), sweep(untrained))


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Path:
    """Results of a sweep of five cells and six documents."""
    return swept(tmp_path_factory.mktemp("long"), sweep(untrained, *LONG))


@pytest.fixture
def results(short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the short sweep's results, below the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(short, "results/sweep")
    return Path("results/sweep")


def test_a_full_disk(tmp_path, untrained, capfd):
    with mounted(disk := tmp_path / "disk", "size=44k"):
        command = sweep(untrained, f"output={disk}/results", "limit=12", "batch_size=1", "max_new_tokens=64")
        running = process(command, tmp_path)
        shown = running.communicate()[1]
        assert running.returncode == 2
        assert f"responses in {disk}/results/responses: database or disk is full" in one_line(shown)
        kept = stored(disk / "results")
        assert 0 < len(kept) < 24
        assert len(kept) % 2 == 0, "half a batch"
        assert set(contents(disk / "results")) == {"run.json", "responses/0.sqlite"}

        remount(disk, "size=4m")
        assert cli.main(command) == 0
        assert f" {24 - len(kept)}/{24 - len(kept)} " in capfd.readouterr().err  # only what was missing
        assert temporary(disk) == []


def test_finished_results_on_a_read_only_disk(results, untrained, capfd):
    with mounted(disk := Path("disk").resolve(), "size=4m"):
        shutil.copytree(results, disk / "results")
        remount(disk, "ro")
        before = contents(disk)
        for arguments in (
            sweep(untrained, f"output={disk}/results"),
            sweep(untrained, f"output={disk}/results", "budget=[24]"),
            sweep(untrained, f"output={disk}/results/new"),
            ["figures", f"{disk}/results"],
        ):
            assert cli.main(arguments) == 2
            line = one_line(capfd.readouterr().err)
            assert "Read-only file system" in line
            assert f"{disk}/results/" in line
        assert cli.main(["status", f"{disk}/results"]) == 0
        assert contents(disk) == before


def test_a_folder_that_cannot_be_made(results, untrained, capfd):
    Path("file").write_text("mine")
    before = contents(Path())
    for output, reason in (
        ("file", "output=file: file is no folder; name another"),
        ("file/results", "output=file/results: file is no folder; name another"),
        ("/proc/results", "cannot write /proc/results/run.json: No such file or directory"),
    ):
        assert cli.main(sweep(untrained, f"output={output}")) == 2
        assert reason in one_line(capfd.readouterr().err)
    assert contents(Path()) == before
    (results / "responses" / "0.sqlite").unlink()
    shutil.rmtree(results / "responses")
    (results / "responses").write_text("mine")
    assert cli.main(sweep(untrained, "budget=[24]")) == 2
    assert "cannot store responses in results/sweep/responses: File exists" in one_line(
        capfd.readouterr().err
    )


@pytest.mark.parametrize("verb", ["figures", "status"])
def test_looking_at_what_is_no_results_folder(verb, results, capfd):
    Path("file").write_text("mine")
    Path("empty").mkdir()
    for name in ("nowhere", "file", "empty"):
        assert name in refused(capfd, [verb, name])
    assert sorted(path.name for path in Path().iterdir()) == ["empty", "file", "results"]


DAMAGES: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "another file": lambda text: "hello",
    "cut off": lambda text: text[:-40],
    "a word for a number": lambda text: text.replace(",0.0,", ",zero,", 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_corrupt_table_for_figures(damage, results, untrained, capfd):
    table = results / "cells.csv"
    text = table.read_text()
    table.write_text(DAMAGES[damage](text))
    line = refused(capfd, ["figures", str(results)])
    assert "results/sweep/cells.csv" in line
    assert "run the sweep again" in line
    assert not (results / "figures").exists()
    assert cli.main(sweep(untrained)) == 0
    assert table.read_text() == text
    assert cli.main(["figures", str(results)]) == 0
    assert temporary(results) == []


def wait_for(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ctrl_c(long, tmp_path, untrained, monkeypatch, capfd):
    command, results = sweep(untrained, *LONG), tmp_path / "results/sweep"
    running = process(command, tmp_path)
    wait_for(lambda: len(stored(results)) >= 10 or running.poll() is not None)
    running.send_signal(signal.SIGINT)
    shown = running.communicate()[1]
    assert running.returncode == 130
    assert one_line(shown) == "sparsemm: interrupted; what was answered is kept, the same command goes on"
    kept = len(stored(results))
    assert 10 <= kept < 30
    assert kept % 5 == 0, "half a batch"
    assert set(contents(results)) == {"run.json", "responses/0.sqlite"}
    assert temporary(tmp_path) == []
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) == 0
    assert f" {30 - kept}/{30 - kept} " in capfd.readouterr().err
    assert tables(results) == tables(long)


INTERRUPTED = """
import os, signal, sys
from importlib.abc import MetaPathFinder
from sparsemm import cli

module = sys.argv[1]

class Interrupting(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("module", ["hydra", "torch", "transformers", "lmms_eval.tasks"])
def test_ctrl_c_while_libraries_are_imported(module, untrained, tmp_path):
    """The first seconds of a command."""
    command = [sys.executable, "-c", INTERRUPTED, module, *sweep(untrained)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 130
    assert (
        one_line(ended.stderr) == "sparsemm: interrupted; what was answered is kept, the same command goes on"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_torn_store_file(long, tmp_path, untrained, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(long, "results/sweep")
    results = Path("results/sweep")
    shutil.rmtree(results / "cells")  # otherwise nothing would be missing
    file = results / "responses/0.sqlite"
    os.truncate(file, file.stat().st_size - 2048)
    assert cli.main(sweep(untrained, *LONG)) == 0
    shown = capfd.readouterr().err
    assert f"{file} was damaged (" in shown
    assert "of its responses could be read and are kept, the others are computed again" in shown
    assert " 30/30 " not in shown
    assert "Traceback" not in shown
    assert tables(results) == tables(long)


def stop_between_commits(running: subprocess.Popen[str], results: Path) -> None:
    """Let a process stay in the middle of its work, without a lock that others would wait for."""
    running.send_signal(signal.SIGSTOP)
    while (results / "responses/0.sqlite-journal").exists():
        running.send_signal(signal.SIGCONT)
        time.sleep(0.01)
        running.send_signal(signal.SIGSTOP)


def test_a_second_sweep_is_refused_while_the_first_one_runs(long, tmp_path, untrained, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    command, results = sweep(untrained, *LONG), tmp_path / "results/sweep"
    first = process(command, tmp_path)
    wait_for(lambda: len(stored(results)) > 0 or first.poll() is not None)
    stop_between_commits(first, results)
    try:
        assert cli.main(sweep(untrained, *LONG[:2], "limit=2")) == 0, "other cells are welcome"
        capfd.readouterr()
        assert cli.main(command) == 2
        line = one_line(capfd.readouterr().err)
        assert f"process {first.pid} on {socket.gethostname()} is answering 5 of the 5 cells" in line
        assert "results/sweep already" in line
    finally:
        first.send_signal(signal.SIGCONT)
    shown = first.communicate()[1]
    assert first.returncode == 0, shown
    assert tables(results) == tables(long)


def test_tables_without_their_cells_are_not_overwritten(results: Path, untrained: Path, capfd):
    shutil.rmtree(results / "cells")
    shutil.rmtree(results / "responses")
    before = tables(results)
    line = refused(capfd, sweep(untrained))
    assert "results/sweep holds tables without the cells" in line
    assert "output=results/mine" in line
    assert tables(results) == before
    assert cli.main([*sweep(untrained), "output=results/mine"]) == 0
    assert tables(Path("results/mine")) == before
