"""The local tasks: official schema and code, made once, whole and the same everywhere."""

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import lmms_eval.tasks
import numpy as np
import pytest
from lmms_eval.utils import load_yaml_config
from PIL import Image

from sparsemm import cli
from sparsemm.documents import make_page
from sparsemm.evaluation import tasks
from sparsemm.tiny import OCR_PROMPT, lookup_question
from sparsemm.tiny.vocabulary import build_tokenizer

OFFICIAL = Path(lmms_eval.tasks.__file__).parent
NAMES = sorted(tasks.TASK_FILES)
SCHEMAS = {
    # Columns of lmms-lab/DocVQA and echo840/OCRBench.
    "tiny_docvqa": {
        *("questionId", "question", "question_types", "image", "docId", "ucsf_document_id"),
        *("ucsf_document_page_no", "answers", "data_split"),
    },
    "tiny_ocr": {"dataset", "question", "question_type", "answer", "image"},
}


def read(name: str) -> Any:
    return datasets.load_dataset("parquet", data_files=str(tasks.include_path() / f"{name}.parquet"))["train"]


@pytest.mark.parametrize(
    ("name", "official", "kept"),
    [
        ("tiny_docvqa", "docvqa/docvqa_val.yaml", ("metric_list", "generation_kwargs", "test_split")),
        ("tiny_ocr", "ocrbench/ocrbench.yaml", ("process_results", "test_split")),
    ],
)
def test_code_and_settings_are_the_official_ones(name, official, kept):
    ours = load_yaml_config(str(tasks.include_path() / f"{name}.yaml"))
    theirs = load_yaml_config(str(OFFICIAL / official))
    for key in ("output_type", "doc_to_visual", "doc_to_text", "doc_to_target", *kept):
        expected = theirs[key]
        if callable(expected):
            assert ours[key].__name__ == expected.__name__
            assert ours[key].__module__.startswith("lmms_eval.tasks.")
        else:
            assert ours[key] == expected
    assert [entry["metric"] for entry in ours["metric_list"]] == [e["metric"] for e in theirs["metric_list"]]


@pytest.mark.parametrize("name", NAMES)
def test_documents_have_the_official_schema_and_can_be_answered(name):
    rows = read(name)
    assert set(rows.column_names) == SCHEMAS[name]
    assert len(rows) == tasks.DOCUMENTS == 200
    seeds = range(tasks.FIRST_SEED[name], tasks.FIRST_SEED[name] + 200)
    for row, seed in zip(rows.select(range(0, 200, 20)), seeds[::20], strict=True):
        page = make_page(seed, tokens=tasks.TOKENS)
        assert np.array_equal(np.asarray(row["image"]), np.asarray(page.image))
        if name == "tiny_docvqa":
            key = row["question"].removeprefix("What is the value of ").removesuffix("?")
            assert row["question"] == lookup_question(key)
            assert row["answers"] == [dict(page.fields)[key]]
        else:
            assert row["question"] == OCR_PROMPT
            assert row["answer"][0] in page.text.split("\n")


def test_questions_fit_the_window_of_the_embedded_model():
    tokenizer = build_tokenizer()
    for name in NAMES:
        lengths = {len(tokenizer(question)["input_ids"]) for question in set(read(name)["question"])}
        assert max(lengths) + 1 <= 8  # and the assistant's token


def test_transcriptions_fit_the_generation_limit():
    limit = tasks.identity("tiny_ocr")["task"]["generation_kwargs"]["max_new_tokens"]
    first = tasks.FIRST_SEED["tiny_ocr"]
    assert max(len(make_page(seed).text) for seed in range(first, first + 200)) < limit


def test_share_found_counts_the_documents_there_are():
    assert tasks.share_found([{"score": 1}, {"score": 0}, {"score": 1}, {"score": 1}]) == 0.75


def test_documents_are_the_same_in_another_process():
    code = (
        "import hashlib; from sparsemm.evaluation.tasks import documents\n"
        "for name in ('tiny_docvqa', 'tiny_ocr'):\n"
        "    print(hashlib.sha256(repr(documents(name, 5)).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    here = [hashlib.sha256(repr(tasks.documents(name, 5)).encode()).hexdigest() for name in NAMES]
    assert there.stdout.split() == here
    image = Image.open(io.BytesIO(tasks.documents("tiny_ocr", 1)[0]["image"]["bytes"]))
    assert image.size[0] * image.size[1] == tasks.TOKENS * 16 * 16


def test_an_interrupted_making_is_never_used(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSEMM_CACHE", str(tmp_path))
    monkeypatch.setattr(tasks, "DOCUMENTS", 3)
    whole = tasks._write_parquet

    def interrupted(task: str, path: Path) -> None:
        if task == "tiny_ocr":
            path.write_bytes(b"PAR1 half of it")
            raise KeyboardInterrupt
        whole(task, path)

    monkeypatch.setattr(tasks, "_write_parquet", interrupted)
    monkeypatch.setattr(tasks.documents, "__defaults__", (3,))
    with pytest.raises(KeyboardInterrupt):
        tasks.include_path()
    assert list((tmp_path / "tasks").iterdir()) == []
    monkeypatch.setattr(tasks, "_write_parquet", whole)
    folder = tasks.include_path()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        f"{name}.{ending}" for name in NAMES for ending in ("parquet", "yaml")
    )
    stamps = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert tasks.include_path() == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == stamps


def test_another_generator_gets_another_folder(tmp_path, monkeypatch):
    here = tasks.include_path()
    identity = tasks.identity("tiny_ocr")
    monkeypatch.setattr(tasks, "VERSION", tasks.VERSION + 1)
    assert tasks.identity("tiny_ocr") != identity
    monkeypatch.setenv("SPARSEMM_CACHE", str(tmp_path))
    monkeypatch.setattr(tasks, "_write_parquet", lambda task, path: path.write_bytes(b""))
    assert tasks.include_path().name != here.name


def test_list_prints_the_folder(capsys):
    assert cli.main(["list", "tasks", "--include-path"]) == 0
    assert capsys.readouterr().out.strip() == str(tasks.include_path())
