"""What may lie in a results folder that no sweep wrote so: who looks says it, the sweep mends it.

A fault more is a row more: of `CELLS` for a cell's file.
"""

import html
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sparsemm import cli
from sparsemm.evaluation.results import write_cell
from tests.evaluation.provoking import contents, refused, sweep, temporary

TABLES = ("cells.csv", "samples.parquet", "allocations.parquet")


class Fault(NamedTuple):
    """What is done to a file, and what must be said of it."""

    damage: Callable[[Path], object]
    said: str


def rewrite(change: Callable[[str], str]) -> Callable[[Path], object]:
    """A damage by another text."""

    def damage(file: Path) -> None:
        text = file.read_text(encoding="utf-8")
        assert change(text) != text
        file.write_text(change(text), encoding="utf-8")

    return damage


def revalue(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """A damage by other values in JSON."""

    def damage(file: Path) -> None:
        held = json.loads(file.read_text(encoding="utf-8"))
        change(held)
        file.write_text(json.dumps(held), encoding="utf-8")

    return damage


def in_its_place(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """A damage by something else of this name."""
    return lambda file: (file.unlink(), make(file))


CELLS: dict[str, Fault] = {
    "of no length": Fault(lambda file: file.write_text(""), "Expecting value"),
    "of zeros": Fault(lambda file: file.write_bytes(bytes(file.stat().st_size)), "Expecting value"),
    "torn": Fault(rewrite(lambda text: text[:-30]), "Expecting"),
    "its first half": Fault(rewrite(lambda text: text[: len(text) // 2]), ""),
    "no text": Fault(lambda file: file.write_bytes(b"\xff\xfe" * 99), "can't decode byte"),
    "a list": Fault(lambda file: file.write_text("[]"), "list indices must be"),
    "another object": Fault(lambda file: file.write_text('{"id": 1}'), "it lacks row"),
    "nested": Fault(lambda file: file.write_text("[" * 100_000), "it is nested too deeply"),
    "a folder": Fault(in_its_place(Path.mkdir), "it is no file"),
    "a pipe": Fault(in_its_place(os.mkfifo), "it is no file"),
    "another id": Fault(revalue(lambda held: held.update(id="0123")), "it is a copy of cell"),
    "no number": Fault(revalue(lambda held: held["row"].update(score=float("nan"))), "it holds NaN"),
    "infinite": Fault(revalue(lambda held: held["row"].update(score=1e308 * 10)), "it holds Infinity"),
    "contradicted": Fault(revalue(lambda held: held["row"].update(score=0.75)), "its score is 0.75, that of"),
    "miscounted": Fault(revalue(lambda held: held["row"].update(n=7)), "it counts 7 documents and holds 2"),
    "one document twice": Fault(revalue(lambda held: held["samples"].update(doc_id=[1, 1])), "not numbered"),
    "no response": Fault(revalue(lambda held: held["samples"].update(response=[None, ""])), "no response"),
    "truth for a number": Fault(revalue(lambda held: held["row"].update(budget=True)), "row.budget"),
    "a link to nothing": Fault(in_its_place(lambda file: file.symlink_to("gone")), "it is no file"),
}


GRID = ["limit=2", f"budget=[{','.join(str(9 + number) for number in range(len(CELLS)))}]"]
"""A cell for each fault, and FullKV's."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Path:
    """Results of that sweep."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(sweep(untrained, *GRID)) == 0
    return folder / "results/sweep"


@pytest.fixture
def results(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them below the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(swept, "results/sweep")
    return Path("results/sweep")


def test_cell_files(results: Path, untrained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """All faults at once, each in a cell of its own."""
    expected = contents(results)
    files = dict(zip(CELLS, sorted((results / "cells").iterdir()), strict=False))
    for name, file in files.items():
        CELLS[name].damage(file)
    before = contents(results)

    def names_all(shown: str, verb: str) -> None:
        assert "Traceback" not in shown
        for name, file in files.items():
            [line] = [line for line in shown.splitlines() if f"{file} {verb} no cell's file (" in line]
            assert CELLS[name].said in line, name

    assert cli.main(["status", str(results)]) == 0
    names_all(capfd.readouterr().out, "is")
    assert cli.main(["report", str(results), "-o", "page.html"]) == 0
    names_all(html.unescape(Path("page.html").read_text(encoding="utf-8")), "is")
    assert contents(results) == before, "who only looks leaves all as it is"

    assert cli.main(sweep(untrained, *GRID)) == 0
    shown = capfd.readouterr().err
    names_all(shown, "was")
    assert " 0/0 " in shown, "they were made again from what is stored"
    after = contents(results)
    assert {name: after[name] for name in TABLES} == {name: expected[name] for name in TABLES}
    assert [json.loads(file.read_text(encoding="utf-8"))["id"] for file in files.values()] == [
        file.stem for file in files.values()
    ]
    assert temporary(results) == []
    assert cli.main(sweep(untrained, *GRID)) == 0
    assert "cell's file" not in capfd.readouterr().err


def test_a_newer_cell_is_left_alone(
    results: Path, untrained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = sorted((results / "cells").iterdir())[0]
    revalue(lambda held: held["row"].update(schema_version=99))(file)
    before = contents(results)
    for arguments in (sweep(untrained, *GRID), ["status", str(results)], ["report", str(results)]):
        line = refused(capfd, arguments)
        assert f"{file} was written by a newer sparsemm (schema 99, this one knows " in line
    assert contents(results) == before


def test_what_is_shown_as_done_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content before its name, new folders too; what the kernel is asked, in order."""
    asked: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        asked.append(("sync", str(Path(f"/proc/self/fd/{handle}").readlink())))
        fsync(handle)

    def noted_replace(source: Path, target: Path) -> None:
        asked.append(("rename", str(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    write_cell(tmp_path / "a/b", "0", "g", {"score": 1.0}, {"score": [1.0]})
    *folders, (first, content), renamed, last = asked
    assert sorted(folders) == [("sync", str(tmp_path / up)) for up in ("", "a", "a/b")]
    assert first == "sync"
    assert content.startswith(f"{tmp_path}/a/b/cells/.0.json-")
    assert renamed == ("rename", f"{tmp_path}/a/b/cells/0.json")
    assert last == ("sync", f"{tmp_path}/a/b/cells")


def test_a_copy_of_a_cell_does_not_count(results: Path, untrained: Path, capfd) -> None:
    file = sorted((results / "cells").iterdir())[0]
    expected = contents(results)
    copy = file.with_name(f"{file.stem}.sync-conflict-20260101-000000-ABCDEFG.json")
    shutil.copy(file, copy)
    assert cli.main(["status", str(results)]) == 0
    shown = capfd.readouterr().out
    assert f"{len(CELLS) + 1} of {len(CELLS) + 1} cells are finished" in shown
    assert f"{copy} is no cell's file (it is a copy of cell '{file.stem}' under another name" in shown
    assert cli.main(sweep(untrained, *GRID)) == 0
    after = contents(results)
    assert {name: after[name] for name in TABLES} == {name: expected[name] for name in TABLES}
    assert not copy.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"config": 3}', "[" * 100_000, None])
def test_a_broken_run_json_is_said_and_written_anew(
    text: str | None, results: Path, untrained: Path, capfd
) -> None:
    """None: a pipe."""
    file = results / "run.json"
    file.unlink()
    os.mkfifo(file) if text is None else file.write_text(text)
    assert cli.main(["report", str(results), "-o", "page.html"]) == 0
    assert "run.json is n" in Path("page.html").read_text(encoding="utf-8")
    assert cli.main(sweep(untrained, *GRID)) == 0
    assert json.loads((results / "run.json").read_text())["config"]["limit"] == 2


def test_a_pipe_for_a_lock_is_not_waited_for(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lock = results / "responses/0.lock"
    lock.unlink(missing_ok=True)
    os.mkfifo(lock)
    assert cli.main(["status", str(results)]) == 0
    assert f"{len(CELLS) + 1} of {len(CELLS) + 1} cells are finished" in capfd.readouterr().out


def test_a_newer_store_is_left_alone(results: Path, untrained: Path, capfd) -> None:
    file = results / "responses/0.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")
    before = contents(results)
    for arguments in (sweep(untrained, *GRID[1:]), ["status", str(results)]):
        assert cli.main(arguments) == 2
        line = capfd.readouterr().err.splitlines()[-1]
        assert f"{file} was written by a newer sparsemm (store 99, this one knows " in line
    assert contents(results)["responses/0.sqlite"] == before["responses/0.sqlite"]
