"""The local tasks: official schema and code, made once, whole and the same everywhere."""

import copy
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
from lmms_eval.tasks.textvqa.utils import textvqa_doc_to_text
from lmms_eval.utils import load_yaml_config
from PIL import Image

from sparsemm import cli
from sparsemm.configs import InputError
from sparsemm.evaluation import tasks
from sparsemm.evaluation.local_documents import TASKS, page_of, question_of
from sparsemm.evaluation.task_files import share_found, textvqa_score
from sparsemm.tiny import OCR_PROMPT
from sparsemm.tiny.vocabulary import build_tokenizer

OFFICIAL = Path(lmms_eval.tasks.__file__).parent
NAMES = list(tasks.TASK_FILES)
FACTS = {"page", "asked", "tokens"}
SCHEMAS = {
    # Columns of lmms-lab/DocVQA, echo840/OCRBench, lmms-lab/ChartQA and lmms-lab/textvqa.
    "tiny_docvqa": {
        *("questionId", "question", "question_types", "image", "docId", "ucsf_document_id"),
        *("ucsf_document_page_no", "answers", "data_split"),
    },
    "tiny_ocr": {"dataset", "question", "question_type", "answer", "image"},
    "tiny_chartqa": {"type", "question", "answer", "image"},
    "tiny_textvqa": {
        *("image_id", "question_id", "question", "question_tokens", "image", "image_width", "image_height"),
        *("flickr_original_url", "flickr_300k_url", "answers", "image_classes", "set_name", "ocr_tokens"),
    },
}


def read(name: str) -> Any:
    return datasets.load_dataset("parquet", data_files=str(tasks.include_path() / f"{name}.parquet"))["train"]


EVERYWHERE = ("output_type", "doc_to_visual", "doc_to_text", "test_split")


@pytest.mark.parametrize(
    ("name", "official", "kept", "metrics"),
    [
        (
            "tiny_docvqa",
            "docvqa/docvqa_val.yaml",
            ("doc_to_target", "metric_list", "generation_kwargs"),
            ["anls"],
        ),
        ("tiny_ocr", "ocrbench/ocrbench.yaml", ("doc_to_target", "process_results"), ["ocrbench_accuracy"]),
        (
            "tiny_chartqa",
            "chartqa/chartqa.yaml",
            ("doc_to_target", "metric_list", "generation_kwargs", "process_results"),
            ["relaxed_overall", "relaxed_human_split", "relaxed_augmented_split"],
        ),
        ("tiny_textvqa", "textvqa/textvqa_val.yaml", (), ["exact_match"]),
    ],
)
def test_code_and_settings_are_the_official_ones(name, official, kept, metrics):
    ours = load_yaml_config(str(tasks.include_path() / f"{name}.yaml"))
    theirs = load_yaml_config(str(OFFICIAL / official))
    for key in (*EVERYWHERE, *kept):
        expected = theirs[key]
        if callable(expected):
            assert ours[key].__name__ == expected.__name__
            assert ours[key].__module__.startswith("lmms_eval.tasks.")
        else:
            assert ours[key] == expected
    official_metrics = {entry["metric"]: entry for entry in theirs["metric_list"]}
    assert [entry["metric"] for entry in ours["metric_list"]] == metrics
    assert set(official_metrics) - set(metrics) <= {"submission"}
    for entry in ours["metric_list"]:
        if not callable(entry["aggregation"]):
            assert entry == official_metrics[entry["metric"]]


def test_signs_are_scored_by_textvqas_own_code():
    """Case, punctuation and articles do not count; three of ten equal answers are enough."""
    doc = {"question_id": 1, "answers": ["The Corner Shop"] * 10}
    assert textvqa_score(copy.deepcopy(doc), ["corner shop."]) == {"exact_match": 1.0}
    assert textvqa_score(copy.deepcopy(doc), ["corner"]) == {"exact_match": 0.0}


def test_textvqas_own_code_leaves_the_questions_as_they_are():
    """It makes the first letter a capital, and all others small."""
    prompts = {"pre_prompt": "", "post_prompt": ""}
    for question in set(read("tiny_textvqa")["question"]):
        assert textvqa_doc_to_text({"question": question}, prompts) == question


@pytest.mark.parametrize("name", NAMES)
def test_documents_have_the_official_schema_and_can_be_answered(name):
    rows = read(name)
    assert set(rows.column_names) == SCHEMAS[name] | FACTS
    assert len(rows) == 500
    for index in range(0, 500, 25):
        row, page = rows[index], page_of(name, index)
        assert np.array_equal(np.asarray(row["image"]), np.asarray(page.image))
        assert (row["page"], row["tokens"]) == (page.kind, page.tokens)
        answers = row["answers"] if "answers" in row else row["answer"]
        answers = [answers] if isinstance(answers, str) else answers
        if name == "tiny_ocr":
            assert row["question"] == OCR_PROMPT
            assert answers[0] in page.text.split("\n")
        else:
            (question,) = [q for q in page.questions if (q.kind, q.text) == (row["asked"], row["question"])]
            assert set(answers) == {question.answer}


@pytest.mark.parametrize("name", NAMES)
def test_kinds_of_questions_and_sizes_are_all_well_represented(name):
    facts = tasks.facts(name)
    assert list(facts.columns) == ["page", "asked", "tokens"]
    assert facts.index.tolist() == list(range(500))
    assert set(facts["asked"]) == set(TASKS[name].asked or ("ocr",))
    assert set(facts["page"]) == set(TASKS[name].pages)
    assert set(facts["tokens"]) == {144, 192, 288}
    for column in facts:
        assert facts[column].value_counts().min() >= 50


def test_questions_fit_the_window_of_the_embedded_model():
    tokenizer = build_tokenizer()
    for name in NAMES:
        lengths = {len(tokenizer(question)["input_ids"]) for question in set(read(name)["question"])}
        assert max(lengths) + 1 <= 8  # and the assistant's token


def test_answers_fit_the_generation_limit():
    for name in NAMES:
        limit = tasks.identity(name)["task"]["generation_kwargs"]["max_new_tokens"]
        pages = [page_of(name, index) for index in range(500)]
        if name == "tiny_ocr":
            assert max(len(page.text) for page in pages) < limit
        else:
            assert max(len(question_of(name, page).answer) for page in pages) < limit


def test_share_found_counts_the_documents_there_are():
    assert share_found([{"score": 1}, {"score": 0}, {"score": 1}, {"score": 1}]) == 0.75


def test_documents_are_the_same_in_another_process():
    code = (
        "import hashlib; from sparsemm.evaluation.tasks import documents\n"
        "for name in ('tiny_docvqa', 'tiny_ocr', 'tiny_chartqa', 'tiny_textvqa'):\n"
        "    print(hashlib.sha256(repr(documents(name, 5)).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    here = [hashlib.sha256(repr(tasks.documents(name, 5)).encode()).hexdigest() for name in NAMES]
    assert there.stdout.split() == here
    image = Image.open(io.BytesIO(tasks.documents("tiny_ocr", 1)[0]["image"]["bytes"]))
    assert image.size[0] * image.size[1] == page_of("tiny_ocr", 0).tokens * 16 * 16


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


def test_no_place_for_the_pages_is_said_in_one_line(tmp_path, monkeypatch):
    """A file where the folder should be: root may write into every folder."""
    (tmp_path / "cache").touch()
    monkeypatch.setenv("SPARSEMM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"cannot be written into .*tasks: .*; SPARSEMM_CACHE names another"):
        tasks.include_path()


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
