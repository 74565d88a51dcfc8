"""Jobs of a multirun: files of their own in one folder, one table, and one job's fault is no other's."""

import json
import sqlite3
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from sparsemm import cli
from sparsemm.evaluation import results, storefile, tasks
from sparsemm.evaluation.jobs import (
    INTERRUPTED,
    RUNNING,
    WAITING,
    Job,
    job_names,
    read_job,
    read_jobs,
    write_job,
)
from sparsemm.evaluation.results import derive_union, write_cell
from sparsemm.evaluation.status import print_status, read_status
from sparsemm.evaluation.store import ResponseStore, answered
from sparsemm.evaluation.tables import load_results
from sparsemm.recording import write_json
from tests.evaluation.provoking import contents, one_line, refused
from tests.evaluation.store_worker import batch, made, scored
from tests.evaluation.test_store import CELLS, FIRST, OTHER, key

NAMES = ("made.look_up", "made.chart")


def test_a_job_sees_what_others_have_answered_and_shares_no_file(tmp_path):
    with ResponseStore.open(tmp_path, CELLS) as plain:
        plain.commit(batch([FIRST], [0]))
        with ResponseStore.open_alone(tmp_path, CELLS, NAMES[0]) as one:
            one.commit(batch([FIRST], [1]))
            with ResponseStore.open_alone(tmp_path, CELLS, NAMES[0]) as two:  # another process of it
                assert two.path.parent == one.path.parent != plain.path.parent
                assert two.path != one.path
                assert two.missing(*FIRST[:3], range(4)) == [2, 3]
                two.commit(batch([FIRST], [1, 2]))  # the first of them is there already
                one.commit(batch([FIRST], [3]))
                assert [*two.responses(*FIRST[:3])] == [0, 1, 2, 3]  # what came after the opening is found
    rows = [*rows_of(plain.path), *rows_of(one.path), *rows_of(two.path)]
    assert sorted(doc_id for (doc_id,) in rows) == [0, 1, 2, 3]
    assert not list(one.path.parent.glob("*.lock"))
    assert answered(tmp_path, *FIRST[:3]) == {0, 1, 2, 3}
    with ResponseStore.open(tmp_path, CELLS) as plain:
        assert plain.missing(*FIRST[:3], range(5)) == [4]


def rows_of(path: Path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT doc_id FROM response").fetchall()


def test_what_a_killed_job_left_unfinished_is_rolled_back_in_a_copy(tmp_path):
    with ResponseStore.open_alone(tmp_path, CELLS, NAMES[0]) as store:
        store.commit(batch(CELLS, range(5)))
        torn = storefile.connect(store.path, options="&nolock=1")
        torn.execute("PRAGMA cache_size = 1")
        torn.execute("BEGIN IMMEDIATE")
        for response_key, response in batch(CELLS, range(5, 40)):  # so many that they reach the file
            torn.execute(storefile.INSERT, (*storefile.encode(response_key, response), 1.0))
        journal = store.path.with_name(f"{store.path.name}-journal")
        assert journal.stat().st_size > 0
        before = contents(store.path.parent)
        assert answered(tmp_path, *FIRST[:3]) == set(range(5))
        assert contents(store.path.parent) == before
        torn.execute("ROLLBACK")
        torn.close()


def test_the_last_of_several_derives_the_tables_from_all_cells(tmp_path, monkeypatch):
    answers = {doc_id: made(key(FIRST, doc_id)) for doc_id in range(4)}
    write_cell(tmp_path, FIRST.cell_id, "group", *scored(FIRST, answers))
    derive, calls = results.derive_tables, []

    def overtaken(folder, groups):
        table = derive(folder, groups)
        calls.append(len(table))
        if len(calls) == 1:  # another job ends between the reading and the writing of this one
            write_cell(tmp_path, OTHER.cell_id, "group", *scored(OTHER, answers))
        return table

    monkeypatch.setattr(results, "derive_tables", overtaken)
    assert len(derive_union(tmp_path)) == 2
    assert calls == [1, 2]
    assert len((tmp_path / "cells.csv").read_text().splitlines()) == 3


def test_names():
    def config(model, *tasks):
        return {"model": {"name": model}, "tasks": dict.fromkeys(tasks)}

    given = [config("a", "x"), config("a/b", "x", "y"), config("a", "x"), config("a", "x", "y", "z")]
    assert job_names(given) == ["a.x", "a_b.x+y", "a.x-2", "a.x+2_more"]


def test_status_of_jobs(tmp_path):
    for job in (
        Job("made.look_up", "l", RUNNING, "12_0", "node7", 5, started=0.0),
        Job("made.chart", "l", WAITING),
        Job("made.ocr", "l", INTERRUPTED, reason="told to stop"),
        Job("made.signs", "l", "failed", reason="no such file"),
        Job("made.pages", "l", "finished", started=1.0, ended=2.0),
    ):
        write_job(tmp_path, job)
    assert read_status(tmp_path).cells == []  # nothing has been answered yet
    (tmp_path / "jobs/half.json").write_text("{")
    assert read_job(tmp_path, "half") is None
    assert len(read_jobs(tmp_path)) == 5
    others = [
        {"pid": "5"},
        {"pid": True},
        {"started": "now"},
        {"state": "gone"},
        {"host": None},
        {"reason": 3},
    ]
    others += [{"failed": [["x", "0", "why"]]}, {"failed": [3]}, {"launch": ["l"]}]
    for number, wrong in enumerate(others):
        write_json(tmp_path / f"jobs/{number}.json", {**asdict(Job(str(number), "l")), **wrong})
        assert read_job(tmp_path, str(number)) is None, wrong
    assert len(read_jobs(tmp_path)) == 5
    with ResponseStore.open_alone(tmp_path, CELLS, NAMES[0]) as store:
        store.commit(batch(CELLS[:4], [0, 1]))
    status = read_status(tmp_path)
    assert [cell.answered for cell in status.cells[:5]] == [2, 2, 2, 2, 0]
    assert [writer.job for writer in status.writers] == ["made.look_up"]  # on another machine
    console = Console(width=200, highlight=False)
    with console.capture() as capture:
        print_status(tmp_path, status, console)
    text = capture.get()
    assert "1 of 5 jobs are finished\n" in text
    assert "job made.look_up has been running for " in text
    assert "(process 5 on node7, job 12_0)" in text
    assert "job made.chart is waiting to start\n" in text
    assert "job made.ocr was told to stop: it goes on when it is started again\n" in text
    assert "job made.signs failed: no such file\n" in text
    assert "process 5 on node7 has been writing" not in text


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory; tasks have four documents, in a cache of their own."""
    monkeypatch.setenv("SPARSEMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tasks, "DOCUMENTS", 4)
    monkeypatch.setattr(tasks.documents, "__defaults__", (4,))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_one_failed_job_stops_no_other_and_runs_again_alone(few, untrained, capfd):
    grid = [
        "sweep",
        "-m",
        f"model.pretrained={untrained}",
        "model.name=tiny",
        "model.window=8",
        "method=[fullkv,snapkv]",
        "budget=[16]",
    ]
    grid += ["task=tiny_ocr,tiny_docvqa,tiny_chartqa", "max_new_tokens=4", "output=out"]
    data = tasks.include_path() / "tiny_ocr.parquet"
    whole = data.read_bytes()
    data.write_bytes(whole[:-99])
    assert cli.main(grid) == 1
    said = capfd.readouterr()
    assert "failed: tiny.tiny_ocr: the data of the task tiny_ocr are damaged: " in said.out
    assert said.out.endswith("1 of 3 jobs failed; the same command runs only those again\n")
    assert set(load_results(few / "out")["task"]) == {"tiny_docvqa", "tiny_chartqa"}
    before = {job.name: job for job in read_jobs(few / "out")}
    assert [job.state for job in before.values()] == ["finished", "finished", "failed"]
    data.write_bytes(whole)
    assert cli.main(grid) == 0
    after = {job.name: job for job in read_jobs(few / "out")}
    assert [name for name in before if after[name] != before[name]] == ["tiny.tiny_ocr"]
    assert len((few / "out/cells.csv").read_text().splitlines()) == 1 + 3 * 2
    run = json.loads((few / "out/run.json").read_text())
    assert list(run["config"]["tasks"]) == ["tiny_ocr", "tiny_docvqa", "tiny_chartqa"], "of all jobs"
    (few / "out/run.json").write_text("{")
    assert cli.main(grid) == 0  # nothing is left: no job is launched
    assert json.loads((few / "out/run.json").read_text())["config"] == run["config"]
    assert {job.name: job for job in read_jobs(few / "out")} == after
    assert capfd.readouterr().out.count("documents") == 2 * 3


WRONG = [
    (["hydra/launcher=slurm"], "a launcher runs the jobs of a multirun: add -m"),
    (["-m", "hydra/launcher=slrm"], "unknown launcher 'slrm'; did you mean slurm?"),
    (
        ["-m", "task=tiny_ocr,tiny_orc", "hydra/launcher=local"],
        "unknown task 'tiny_orc'; did you mean",
    ),
    (["-m", "budget=7,16", "hydra/launcher=local"], "smaller than the window"),
    (["-m", "hydra/launcher=local", "hydra.launcher.partition=gpu"], "partition"),
    (["-m", "hydra/sweeper=basic", "budget=16,32"], "leave out hydra/sweeper"),
    (["rate=nowhere", "plan=true"], "no rate can be measured in nowhere"),
    (["rate=[1,2,3]", "plan=true"], "rate must be the seconds that a document takes"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_wrong_input_is_found_before_anything_is_launched(arguments, message, few, capfd):
    assert message in refused(capfd, ["sweep", *arguments])
    assert not list(few.iterdir())


def test_where_there_is_no_slurm(few, capfd, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", "/nowhere")
    capfd.readouterr()
    assert cli.main(["sweep", "-m", "task=tiny_ocr,tiny_docvqa", "hydra/launcher=slurm"]) == 2
    assert "no job could be launched: RuntimeError: Could not detect" in one_line(capfd.readouterr().err)
    assert not read_jobs(few / "results/sweep")
