"""The two local tasks: generated pages in the schema, and under the metric code, of two official benchmarks.

``tiny_docvqa`` asks for a value (docvqa_val: ANLS), ``tiny_ocr`` for a transcription (ocrbench: is the
answer, one line of the page, contained in it?). Both are made on first use, from seeds, as parquet files
with lmms-eval YAML beside them in the user's cache; `include_path` is what lmms-eval's ``--include_path``
wants.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsemm.configs import InputError
from sparsemm.documents import VERSION, Page, make_page
from sparsemm.tiny import OCR_PROMPT, lookup_question

TASKS_VERSION = 1
"""Raised whenever the same pages would give other questions or answers."""

DOCUMENTS = 200
TOKENS = 96
"""Visual tokens of every page."""

FIRST_SEED = {"tiny_docvqa": 10_000, "tiny_ocr": 20_000}
"""Seeds of the first documents, of the evaluation split; head scores use pages from seed 2,000,000 on."""

TASK_FILES = {
    "tiny_docvqa": """\
task: tiny_docvqa
dataset_path: parquet
dataset_kwargs:
  data_files:
    validation: tiny_docvqa.parquet
test_split: validation
output_type: generate_until
doc_to_visual: !function lmms_eval.tasks.docvqa.utils.docvqa_doc_to_visual
doc_to_text: !function lmms_eval.tasks.docvqa.utils.docvqa_doc_to_text
doc_to_target: answers
generation_kwargs:
  max_new_tokens: 32
  temperature: 0
  do_sample: false
metric_list:
  - metric: anls
    aggregation: mean
    higher_is_better: true
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: ""
metadata:
  version: 1
""",
    "tiny_ocr": """\
task: tiny_ocr
dataset_path: parquet
dataset_kwargs:
  data_files:
    test: tiny_ocr.parquet
test_split: test
output_type: generate_until
doc_to_visual: !function lmms_eval.tasks.ocrbench.utils.ocrbench_doc_to_visual
doc_to_text: !function lmms_eval.tasks.ocrbench.utils.ocrbench_doc_to_text
doc_to_target: answer
generation_kwargs:
  max_new_tokens: 192
  temperature: 0
  do_sample: false
process_results: !function lmms_eval.tasks.ocrbench.utils.ocrbench_process_results
metric_list:
  - metric: ocrbench_accuracy
    aggregation: !function sparsemm.evaluation.tasks.share_found
    higher_is_better: true
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: ""
metadata:
  version: 1
""",
}
"""What lmms-eval reads. The official ocrbench divides by 1000 whatever the number of documents."""


def share_found(results: Sequence[Mapping[str, Any]]) -> float:
    """Mean of ocrbench's score per sample (0 or 1)."""
    return sum(result["score"] for result in results) / len(results)


def cache_folder() -> Path:
    """Where made data lie: ``$SPARSEMM_CACHE``, or ``sparsemm`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get("SPARSEMM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparsemm"


def identity(task: str) -> dict[str, Any]:
    """What a task's documents, questions and scores depend on."""
    config = yaml.load(TASK_FILES[task].replace("!function ", ""), yaml.SafeLoader)
    return {
        "task": config,
        "documents": DOCUMENTS,
        "tokens": TOKENS,
        "first_seed": FIRST_SEED[task],
        "generator": VERSION,
        "version": TASKS_VERSION,
    }


def include_path() -> Path:
    """Folder of the local tasks; made if it is not there yet, and only ever seen complete.

    Its name is a hash of everything that the data depend on, so that a changed generator never meets old
    pages.
    """
    key = hashlib.sha256(
        json.dumps([identity(task) for task in TASK_FILES], sort_keys=True).encode()
    ).hexdigest()
    folder = cache_folder() / "tasks" / key[:16]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
    try:
        for task, text in TASK_FILES.items():
            _write_parquet(task, beside / f"{task}.parquet")
            (beside / f"{task}.yaml").write_text(text, encoding="utf-8")
        beside.chmod(0o755)
        try:
            beside.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first: its folder is the same
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def check_data(task: str) -> None:
    """Look whether a local task's files are whole: lmms-eval would try for long, and say little.

    Raises
    ------
    InputError
        One line that names the damaged file, and how it is made again.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = include_path()
    file = folder / f"{task}.yaml"
    try:
        if file.read_text(encoding="utf-8") != TASK_FILES[task]:
            raise ValueError("it is not what sparsemm wrote")
        file = folder / f"{task}.parquet"
        with file.open("rb") as handle:
            table = pq.ParquetFile(handle).read()
        if lacking := sorted(documents(task, 1)[0].keys() - set(table.column_names)):
            raise ValueError(f"it lacks the columns {', '.join(lacking)}")
        if not len(table):
            raise ValueError("it holds no documents")
    except (ValueError, OSError, pa.ArrowException) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(
            f"the data of the task {task} are damaged: {file}: {reason}; delete {folder}, and the same "
            "command makes them again"
        ) from error


def documents(task: str, count: int = DOCUMENTS) -> list[dict[str, Any]]:
    """The first documents of a local task, in the official benchmark's schema; images are PNG bytes."""
    make = {"tiny_docvqa": _docvqa_document, "tiny_ocr": _ocr_document}[task]
    seeds = range(FIRST_SEED[task], FIRST_SEED[task] + count)
    return [make(index, make_page(seed, split="eval", tokens=TOKENS)) for index, seed in enumerate(seeds)]


def _docvqa_document(index: int, page: Page) -> dict[str, Any]:
    key, value = random.Random(page.seed).choice(page.fields)
    return {
        "questionId": str(index),
        "question": lookup_question(key),
        "question_types": ["form"],
        "image": _png(page),
        "docId": page.seed,
        "ucsf_document_id": "",
        "ucsf_document_page_no": "1",
        "answers": [value],
        "data_split": "val",
    }


def _ocr_document(index: int, page: Page) -> dict[str, Any]:
    return {
        "dataset": "tiny_ocr",
        "question": OCR_PROMPT,
        "question_type": "Regular Text Recognition",
        "answer": [random.Random(page.seed).choice(page.text.split("\n"))],
        "image": _png(page),
    }


def _png(page: Page) -> dict[str, Any]:
    buffer = io.BytesIO()
    page.image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _write_parquet(task: str, path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list(documents(task)).cast_column("image", datasets.Image())
    datasets.disable_progress_bars()
    rows.to_parquet(path)
