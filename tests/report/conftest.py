"""A small results folder as a sweep writes it, with texts that try to break out of the page."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sparsemm.evaluation.generation import image_key
from sparsemm.evaluation.results import derive_tables, write_cell
from sparsemm.evaluation.tables import SCHEMA_VERSION

HOSTILE_TASK = "<img src=x onerror=alert('task')>"
HOSTILE_METHOD = "</script><script>alert('method')</script>"
HOSTILE_TEXTS = (
    "<script>alert('answer')</script>",
    "</script><script>alert('answer')</script>",
    "<img src=x onerror=alert('answer')>",
    "\u2028line\u2029 & &amp; \"quoted\" 'single' <!-- comment",
    "🍉 שלום עולם 日本語の答え \u202eevil",
    "{{ 7 * 7 }} {% raw %} ${alert(1)} javascript:alert(1)",
)
DOCUMENTS = 24
RIGHT, WRONG = "right", "wrong"


def picture(at: int) -> Image.Image:
    noise = np.random.default_rng(at).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def key_of(image: Image.Image) -> str:
    return image_key([{"role": "user", "content": [{"type": "image", "image": image}]}])


def question(at: int) -> str:
    return HOSTILE_TEXTS[at] if at < len(HOSTILE_TEXTS) else f"Which number is {at}?"


def answers(wrong: set[int]) -> list[str]:
    """Document by document; the first ones are hostile, and all answers name the document."""
    return [
        f"{WRONG if at in wrong else RIGHT} {at} {HOSTILE_TEXTS[at % len(HOSTILE_TEXTS)] if at < 12 else ''}"
        for at in range(DOCUMENTS)
    ]


def put(
    folder: Path, cell_id: str, method: str, budget: float | None, wrong: set[int], *,
    task: str = "docvqa_val", **row: Any,
) -> None:  # fmt: skip
    """A finished cell: all documents of `wrong` score 0, one (10) in part, the others 1."""
    texts = answers(wrong)
    scores = [0.0 if at in wrong else 1.0 for at in range(DOCUMENTS)]
    columns = {"model": "m", "task": task, "metric": "anls", "method": method, "budget": budget}
    columns |= {"score": sum(scores) / DOCUMENTS, "n": DOCUMENTS, "schema_version": SCHEMA_VERSION}
    columns |= {"prompt": "image_question", "realised_budget": budget, "method_params": "{}"}
    samples = {
        "doc_id": [*range(DOCUMENTS)],
        "response": texts,
        "score": scores,
        "target": [json.dumps([f"target {at}", HOSTILE_TEXTS[0]]) for at in range(DOCUMENTS)],
        "prompt_tokens": [100 + at for at in range(DOCUMENTS)],
        "image": [key_of(picture(at)) for at in range(DOCUMENTS)],
    }
    write_cell(folder, cell_id, "group", {**columns, **row}, samples)


FULL_WRONG = {20, 21, 22, 23}
SNAP_WRONG = {0, 1, 2, 3, 4, 5, 20, 21}


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `results` copies."""
    folder = tmp_path_factory.mktemp("made") / "<b>made & up"
    folder.mkdir()
    scores = folder / "heads.json"
    scores.write_text(
        json.dumps({f"{layer}-{head}": [layer + head / 7] for layer in range(4) for head in range(8)})
    )
    label = f"heads.json@{hashlib.sha256(scores.read_bytes()).hexdigest()[:12]}"
    data = folder / "docvqa.parquet"
    pages = [
        {
            "image": {"bytes": png(picture(at)), "path": None},
            "question": question(at),
            "answers": [f"target {at}"],
        }
        for at in range(DOCUMENTS)
    ]
    pd.DataFrame(pages).to_parquet(data)
    for task in ("docvqa_val", HOSTILE_TASK):
        number = ["docvqa_val", HOSTILE_TASK].index(task)
        put(folder, f"full{number}", "fullkv", None, FULL_WRONG, task=task)
        put(folder, f"snap16{number}", "snapkv", 16.0, SNAP_WRONG, task=task)
        put(folder, f"snap32{number}", "snapkv", 32.0, {0, 20}, task=task)
        put(folder, f"sparse16{number}", "sparsemm", 16.0, {20, 21, 22, 23}, task=task, head_scores=label)
        put(folder, f"hostile{number}", HOSTILE_METHOD, 16.0, {1, 2}, task=task)
    put(folder, "after", "snapkv", 16.0, {*range(12)}, prompt="question_after_compression")
    for seed in (0, 1):
        put(folder, f"random{seed}", "random", 16.0, {seed, 22}, seed=seed)
    run = {
        "config": {
            "model": {"head_scores": str(scores)},
            "tasks": {"docvqa_val": {"metric": "anls", "data_files": str(data)}},
        },
        "versions": {"torch": "2.13.0"},
        "git_commit": "abc</pre><script>alert(1)</script>",
    }
    (folder / "run.json").write_text(json.dumps(run))
    derive_tables(folder)
    kept = [
        {
            "cell": cell,
            "layer": layer,
            "kv_head": head,
            "nominal": 8.0 * layer + head + (cell == "sparse160"),
            "kept": 8.0 * layer + head,
        }
        for cell in ("snap160", "sparse160")
        for layer in range(4)
        for head in range(2)
    ]
    pd.DataFrame(kept).to_parquet(folder / "allocations.parquet")
    return folder


@pytest.fixture
def results(made: Path, tmp_path: Path) -> Path:
    """A finished sweep's folder."""
    folder = tmp_path / made.name
    shutil.copytree(made, folder)
    run = folder / "run.json"
    run.write_text(run.read_text().replace(str(made), str(folder)))
    return folder
