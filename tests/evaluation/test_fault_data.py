"""Damaged task data, documents that cannot be read, and a task whose code fails."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsemm import cli
from sparsemm.evaluation import tasks
from sparsemm.evaluation.tables import load_results
from tests.evaluation.provoking import contents, one_line, refused, stored, sweep, temporary, without


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parquet file of a task of four documents, in a cache of its own."""
    monkeypatch.setenv("SPARSEMM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tasks, "DOCUMENTS", 4)
    monkeypatch.setattr(tasks.documents, "__defaults__", (4,))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tasks.include_path() / "tiny_ocr.parquet"


def change(file: Path, column: str, values: dict[int, Any]) -> None:
    """Give some documents another value in a column."""
    table = pq.read_table(file)
    rows = table.to_pylist()
    for number, value in values.items():
        rows[number][column] = value
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "tiny_ocr.parquet: No such file"),
    "empty": (lambda file: file.write_bytes(b""), "tiny_ocr.parquet: Parquet file size is 0 bytes"),
    "a text": (lambda file: file.write_text("documents " * 10), "tiny_ocr.parquet: Parquet magic bytes not"),
    "cut off": (lambda file: file.write_bytes(file.read_bytes()[:-99]), "tiny_ocr.parquet: Parquet magic"),
    "no documents": (
        lambda file: pq.write_table(pq.read_table(file)[:0], file),
        "parquet: it holds no documents",
    ),
    "no image": (without("image"), "tiny_ocr.parquet: it lacks the columns image"),
    "no question": (without("question"), "tiny_ocr.parquet: it lacks the columns question"),
    "no answer": (without("answer"), "tiny_ocr.parquet: it lacks the columns answer"),
    "no settings": (lambda file: file.with_suffix(".yaml").unlink(), "tiny_ocr.yaml: No such file"),
    "other settings": (
        lambda file: file.with_suffix(".yaml").write_text("task: ["),
        "it is not what sparsemm",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_data(damage, data, untrained, capfd):
    provoke, message = DAMAGES[damage]
    provoke(data)
    line = refused(capfd, sweep(untrained))
    assert "the data of the task tiny_ocr are damaged: " in line
    assert message in line
    assert f"delete {data.parent}, and the same command makes them again" in line
    assert not list(Path().iterdir())


def test_what_the_line_advises_helps(data, untrained, capfd):
    whole = contents(data.parent)
    data.write_bytes(b"")
    line = refused(capfd, sweep(untrained))
    shutil.rmtree(line.partition("delete ")[2].partition(",")[0])
    assert cli.main(sweep(untrained)) == 0
    assert contents(data.parent) == whole


def assert_one_fails(untrained: Path, capfd: pytest.CaptureFixture[str], reason: str) -> None:
    """A sweep of which document 1 alone fails, under both cells."""
    assert cli.main(sweep(untrained)) == 1
    shown = capfd.readouterr()
    assert f"failed: tiny_ocr document 1: {reason}" in " ".join(shown.out.split())
    assert "1 document could not be answered" in shown.out
    assert "Traceback" not in shown.err
    assert load_results(Path("results/sweep"))["n_failed"].tolist() == [1, 1]


def test_a_question_that_is_no_text_fails_its_document_alone(data, untrained, capfd):
    """Text would be made of it: "None"."""
    change(data, "question", {1: None})
    assert_one_fails(untrained, capfd, "ValueError: its question is no text: None")


@pytest.mark.parametrize("question", [None, 7, b"what"])
def test_questions_that_are_no_text_are_one_line(question, data, untrained, capfd):
    table = pq.read_table(data)
    column = table.schema.get_field_index("question")
    pq.write_table(table.set_column(column, "question", pa.array([question] * len(table))), data)
    assert cli.main(sweep(untrained)) == 2
    assert "tiny_ocr: " in one_line(capfd.readouterr().err)
    assert temporary(Path()) == []


def test_an_unreadable_image_fails_alone_and_is_asked_again(data, untrained, capfd):
    whole = data.read_bytes()
    change(data, "image", {1: {"bytes": b"no image", "path": None}})
    reason = "UnidentifiedImageError: cannot identify image file"
    assert_one_fails(untrained, capfd, reason)
    results = Path("results/sweep")
    samples: Any = pd.read_parquet(results / "samples.parquet").set_index("doc_id")
    assert all(error.startswith(reason) for error in samples.loc[1, "error"])
    assert (samples.loc[1, "response"] == "").all()
    assert samples.loc[[0, 2], "error"].isna().all()
    rows = stored(results)
    assert sorted(doc_id for _, doc_id, failed in rows if failed) == [1, 1]
    assert len(rows) == 6

    data.write_bytes(whole)
    assert cli.main(sweep(untrained)) == 0
    assert " 2/2 " in capfd.readouterr().err  # one document under two cells
    assert [row[1:] for row in sorted(stored(results))] == [(doc_id, 0) for doc_id in (0, 1, 2)] * 2
    assert load_results(results)["n_failed"].tolist() == [0, 0]
    assert cli.main([*sweep(untrained), "output=fresh"]) == 0
    for name in ("cells.csv", "samples.parquet"):
        assert (results / name).read_bytes() == Path("fresh", name).read_bytes()


def test_a_tasks_own_code_that_fails_to_score_is_one_line(data, untrained, capfd):
    """lmms-eval tries for 8 s, and then says no more than that it tried."""
    whole = data.read_bytes()
    change(data, "answer", {1: None})
    assert cli.main(sweep(untrained)) == 2
    line = one_line(capfd.readouterr().err)
    assert "lmms-eval failed at the task tiny_ocr: " in line
    assert "'NoneType' object" in line
    results = Path("results/sweep")
    assert not (results / "cells").exists()
    assert not (results / "cells.csv").exists()
    assert temporary(Path()) == []
    assert len(stored(results)) == 6

    data.write_bytes(whole)
    assert cli.main(sweep(untrained)) == 0
    assert " 0/0 " in capfd.readouterr().err  # what was answered is kept
