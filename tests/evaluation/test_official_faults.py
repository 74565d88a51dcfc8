"""Official benchmarks that cannot run: one line before a model is loaded; a plan says all that is missing."""

import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import datasets
import httpx
import pyarrow.parquet as pq
import pytest

from sparsemm import cli
from sparsemm.configs import InputError, read
from sparsemm.evaluation import missing, official, official_data
from sparsemm.models import loading
from tests.composing import composed
from tests.evaluation.official_documents import SCHEMAS, rows_of, write
from tests.evaluation.provoking import refused, without

GRID = ("method=[fullkv,snapkv]", "budget=[16]")
PAPER = (
    *("sweep", "model=qwen2_vl_7b", "task=[docvqa_val,ocrbench,textvqa_val,chartqa,textcaps_val]"),
    *("method=[fullkv,snapkv,pyramidkv,adakv,sparsemm]", "budget=[64,128,256,512,1024,2048]"),
)
PAPER_TASKS = ("docvqa_val", "ocrbench", "textvqa_val", "chartqa", "textcaps_val")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to run in, no login, and a model that may not be loaded."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))

    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(loading, "load", refuse)


def sweep(task: str, *overrides: str) -> list[str]:
    return ["sweep", f"task=[{task}]", *GRID, *overrides]


def nothing_written() -> bool:
    return not list(Path().iterdir())


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "data.parquet cannot be used: No such file or directory"),
    "empty": (lambda file: file.write_bytes(b""), "cannot be used: Parquet file size is 0 bytes"),
    "a text": (lambda file: file.write_text("documents " * 10), "cannot be used: Parquet magic bytes not"),
    "no documents": (lambda file: pq.write_table(pq.read_table(file)[:0], file), "it holds no documents"),
    "no image": (without("image"), "it lacks the columns image"),
    "another schema": (
        lambda file: write("ai2d", file, rows_of("ai2d")),
        "it lacks the columns answers",
    ),
    "an empty folder": (lambda file: (file.unlink(), file.mkdir()), "there is no parquet file in "),
    "another split": (
        lambda file: (
            file.unlink(),
            file.mkdir(),
            write("docvqa_val", file / "test-00000-of-00001.parquet"),
        ),
        "holds the split test, but docvqa_val needs validation",
    ),
}


@pytest.mark.parametrize("fault", FILES)
@pytest.mark.parametrize("plan", ["plan=true", "plan=false"])
def test_local_files(fault, plan, tmp_path, capfd):
    file = write("docvqa_val", tmp_path / "data.parquet")
    provoke, message = FILES[fault]
    provoke(file)
    line = refused(capfd, sweep("docvqa_val", f"tasks.docvqa_val.data_files={file}", plan))
    assert message in line
    assert "tasks.docvqa_val.data_files: " in line
    assert str(file) in line
    assert nothing_written()


def test_every_column_that_is_asked_for_is_needed(tmp_path):
    """Each by each, for all benchmarks: the code of none of them is met with a file it cannot read."""
    for task in SCHEMAS:
        whole = write(task, tmp_path / "whole.parquet")
        columns = official.BENCHMARKS[task].columns
        assert set(columns) <= set(pq.read_schema(whole).names)
        for column in columns:
            part = tmp_path / "part.parquet"
            shutil.copy(whole, part)
            without(column)(part)
            with pytest.raises(InputError, match=f"lacks the columns {column}"):
                official.local_files(task, {"data_files": str(part)})


def test_options(tmp_path, capfd):
    file = write("docvqa_val", tmp_path / "data.parquet")
    given = f"tasks.docvqa_val.data_files={file}"
    line = refused(capfd, sweep("docvqa_val", given, "tasks.docvqa_val.metric=anl"))
    assert "the task docvqa_val has no metric 'anl'; did you mean anls?" in line
    line = refused(capfd, sweep("docvqa_val", "tasks.docvqa_val.data_files=[a,b]"))
    assert "must be a parquet file, a folder or a pattern, got ['a', 'b']" in line
    line = refused(capfd, sweep("docvqa_val", "tasks.docvqa_val.data_file=x"))
    assert "did you mean tasks.docvqa_val.data_files" in line
    line = refused(capfd, sweep("docvqa"))
    assert "unknown task 'docvqa'; did you mean" in line
    assert "docvqa_val" in line


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (5, "MME only supports pairwise evaluation"),
        (2, "none of the 2 documents of mme counts for the metric mme_perception_score"),
    ],
)
def test_limits_that_mme_cannot_score_are_found_before_the_model_is_loaded(limit, message, tmp_path, capfd):
    file = write("mme", tmp_path / "data.parquet")
    line = refused(capfd, sweep("mme", f"tasks.mme.data_files={file}", f"limit={limit}"))
    assert message in line
    assert nothing_written()


def test_an_answer_that_is_missing_is_found_before_the_model_is_loaded(tmp_path, capfd):
    rows = rows_of("vqav2_val")
    rows[2]["answers"] = [{"answer": None, "answer_confidence": "", "answer_id": 1}]
    file = write("vqav2_val", tmp_path / "data.parquet", rows)
    line = refused(capfd, sweep("vqav2_val", f"tasks.vqav2_val.data_files={file}"))
    assert "lmms-eval failed at the task vqav2_val: " in line
    assert nothing_written()


def test_without_java(tmp_path, capfd, monkeypatch):
    file = write("textcaps_val", tmp_path / "data.parquet")
    monkeypatch.setenv("PATH", str(tmp_path))
    command = sweep("textcaps_val", f"tasks.textcaps_val.data_files={file}")
    line = refused(capfd, command)
    assert line == "sparsemm: textcaps_val: scoring needs Java, and there is no `java` on the PATH"
    assert cli.main([*command, "plan=true"]) == 0
    assert "missing: textcaps_val: scoring needs Java" in capfd.readouterr().err
    assert nothing_written()


def test_offline(capfd):
    line = refused(capfd, list(PAPER))
    assert "the hub cannot be reached: HF_HUB_OFFLINE is set" in line
    for option in ("model.pretrained=FOLDER", *(f"tasks.{task}.data_files=FILE" for task in PAPER_TASKS)):
        assert option in line
    assert "head scores of qwen2_vl_7b, for sparsemm, were not measured yet" in line
    assert nothing_written()


def test_a_hub_that_cannot_be_reached(capfd, monkeypatch, untrained):
    """No name is resolved, and no time is spent on trying again."""
    from huggingface_hub import constants

    def nowhere(*_: Any, **__: Any) -> NoReturn:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    line = refused(capfd, sweep("gqa", f"model.pretrained={untrained}", "model.window=8"))
    assert "the hub cannot be reached: " in line
    assert "not on this machine, and can be given: tasks.gqa.data_files=FILE" in line
    assert "model.pretrained" not in line
    assert nothing_written()


def test_gated_data_and_a_missing_login_are_said(capfd, monkeypatch, untrained):
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError

    def gated(*_: Any, **__: Any) -> NoReturn:
        response: Any = httpx.Response(403, request=httpx.Request("GET", "https://hub"))
        raise GatedRepoError("403 Client Error", response=response)

    command = sweep("gqa", f"model.pretrained={untrained}", "model.window=8")
    monkeypatch.setattr(HfApi, "auth_check", gated)
    line = refused(capfd, command)
    assert "lmms-lab-encoder/GQA is gated: ask for access on its page and log in (`hf auth login`)" in line
    monkeypatch.setattr(HfApi, "auth_check", lambda *_, **__: None)
    monkeypatch.setattr(official_data, "logged_in", lambda: False)
    line = refused(capfd, command)
    assert "the code of gqa wants a login to the hub (`hf auth login`)" in line
    assert "tasks.gqa.data_files=FILE" in line


def test_a_plan_needs_neither_model_nor_data(capfd):
    assert cli.main([*PAPER, "plan=true"]) == 0
    said = capfd.readouterr()
    assert not said.out
    for task in PAPER_TASKS:
        assert f"{task}: 25 cells\n" in said.err
        assert f"or tasks.{task}.data_files=FILE" in said.err
    assert "missing: the model Qwen/Qwen2-VL-7B-Instruct is not on this machine" in said.err
    assert (
        "missing: head scores of qwen2_vl_7b, for sparsemm, were not measured yet: sparsemm heads" in said.err
    )
    assert "125 cells; nothing was run (plan=true)" in said.err
    assert nothing_written()


def test_a_plan_without_data_counts_the_cells_that_a_run_has(tmp_path):
    """Lists of seeds, methods without a budget, and budgets that are given twice."""
    file = write("docvqa_val", tmp_path / "data.parquet")
    given = ("task=[docvqa_val]", "method=[fullkv,snapkv,random,sparsemm]", "budget=[16,32,16]")
    config = composed("sweep", *given, "methods.random.seed=[0,1]", f"tasks.docvqa_val.data_files={file}")
    from sparsemm.evaluation.planning import plan

    assert missing.count_cells(config) == len(plan(config)) == 1 + 2 + 4 + 2
    assert not missing.what_is_missing(config)
    more = ("prompt=[image_question,question_after_compression]", "ablation=[mask_visual,mask_random]")
    more = (*more, "fraction=[0,0.1,0.2,0.1]", "ablations.mask_random.seed=[0,1]")
    config = composed("sweep", *given, *more, f"tasks.docvqa_val.data_files={file}")
    assert missing.count_cells(config) == len(plan(config)) == (1 + 2 * (2 + 2 + 2)) * (1 + 2 * 3)


def test_wrong_options_are_refused_in_a_plan_too(capfd):
    assert "snapkv needs a budget" in refused(capfd, [*PAPER, "budget=null", "plan=true"])
    assert "limit must be a positive integer" in refused(capfd, [*PAPER, "limit=0", "plan=true"])


def test_data_that_were_prepared_before_need_no_hub(tmp_path, monkeypatch):
    """As `datasets` keeps what it has downloaded: found, read and asked without a question to the hub."""
    from lmms_eval.api import task as lmms_task

    folder = tmp_path / "cache"
    made = datasets.load_dataset(
        "parquet", data_files={"test": str(write("chartqa", tmp_path / "a.parquet"))}, cache_dir=str(folder)
    )
    (info,) = folder.glob("parquet/*/*/*/dataset_info.json")
    place = folder / "lmms-lab-encoder___chart_qa" / "default" / "0.0.0" / "0123456789abcdef"
    place.parent.mkdir(parents=True)
    shutil.copytree(info.parent, place)
    for file in place.glob("parquet-*.arrow"):
        file.rename(place / re.sub("^parquet", "chart_qa", file.name))
    monkeypatch.setattr(lmms_task, "_resolve_hf_datasets_cache_dir", lambda: str(folder))
    assert official_data.is_cached("lmms-lab-encoder/ChartQA", None)
    assert not official_data.is_cached("lmms-lab-encoder/DocVQA", "DocVQA")
    task = official.build("chartqa", read("task", "chartqa"))
    assert task.dataset["test"]["question"] == made["test"]["question"]
