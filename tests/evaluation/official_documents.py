"""Rendered documents in the official benchmarks' schemas, each with a right and a wrong answer."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from sparsemm.documents.drawn import draw_page
from sparsemm.documents.page import Page

Row = dict[str, Any]
FACTS = ("asked", "right", "wrong")
"""Not in the files: a part of the prompt that only this document has on its image, and two answers."""


def image(page: Page) -> Row:
    """The page as the hub's files hold it."""
    buffer = io.BytesIO()
    page.image.save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _docvqa(n: int, page: Page) -> Row:
    question = page.questions[0]
    return {
        "questionId": str(n),
        "question": question.text,
        "question_types": ["form"],
        "docId": page.seed,
        "ucsf_document_id": "",
        "ucsf_document_page_no": "1",
        "answers": [question.answer],
        "data_split": "val",
        "right": question.answer,
        "wrong": "?",
    }


def _ocrbench(n: int, page: Page) -> Row:
    line = page.text.split("\n")[0]
    kinds = ["Regular Text Recognition", "Doc-oriented VQA", "Scene Text-centric VQA"]
    return {
        "dataset": "HME100k" if n == 0 else "IIIT5K",
        "question": "what is written in the image?",
        "question_type": kinds[n % 3],
        "answer": [line],
        "right": f"It says {line}",
        "wrong": "?",
    }


def _textvqa(n: int, page: Page) -> Row:
    return {
        "image_id": str(page.seed),
        "question_id": n,
        "question": "what does the sign say?",
        "question_tokens": ["what", "does", "the", "sign", "say"],
        "image_width": page.image.width,
        "image_height": page.image.height,
        "answers": [page.text.replace("\n", " ")] * 10,
        "image_classes": ["sign"],
        "set_name": "val",
        "ocr_tokens": page.text.split(),
        "right": page.text.replace("\n", " ").upper(),
        "wrong": "?",
    }


def _chartqa(n: int, page: Page) -> Row:
    question = next(question for question in page.questions if question.kind == "value")
    return {
        "type": "human_test" if n % 2 else "augmented_test",
        "question": question.text,
        "answer": question.answer,
        "right": str(float(question.answer) * 1.04),
        "wrong": str(float(question.answer) * 1.06),
    }


def _textcaps(n: int, page: Page) -> Row:
    words = " ".join(page.text.lower().split())
    return {
        "asked": "Provide a one-sentence caption for the provided image.",
        "question_id": str(n),
        "question": "Please carefully observe the image and come up with a caption for the image",
        "image_id": f"page{n}",
        "caption_id": [n],
        "caption_str": [f"number {n} says {words}"],
        "reference_strs": [f"number {n} says {words}"],
        "right": f"number {n} says {words}",
        "wrong": "zebra crossing",
    }


def _mmbench(n: int, page: Page) -> Row:
    """Two questions, each asked in two rotations, which share the image."""
    turned = n % 2
    return {
        "asked": ["A. alpha", "A. gamma"][turned],
        "index": n // 2 + 1_000_000 * turned,
        "question": "Which word is on the page?",
        "hint": "nan",
        "answer": "AB"[turned],
        "A": ["alpha", "gamma"][turned],
        "B": ["gamma", "alpha"][turned],
        "C": "delta",
        "D": "omega",
        "category": ["image_topic", "ocr"][n // 2 % 2],
        "L2-category": "coarse_perception",
        "source": "",
        "split": "dev",
        "comment": "nan",
        "right": f"{'AB'[turned]}.",
        "wrong": "D",
    }


def _gqa(n: int, page: Page) -> Row:
    word = page.text.split()[0]
    return {
        "id": str(n),
        "imageId": f"n{page.seed}",
        "question": "What is the first word?",
        "answer": word.lower(),
        "fullAnswer": word,
        "isBalanced": True,
        "right": f"{word.upper()}.",
        "wrong": "?",
    }


def _vqav2(n: int, page: Page) -> Row:
    word = page.text.split()[0]
    return {
        "question_type": "what is the",
        "multiple_choice_answer": word,
        "answers": [{"answer": word, "answer_confidence": "yes", "answer_id": i + 1} for i in range(10)],
        "image_id": page.seed,
        "answer_type": "other",
        "question_id": n,
        "question": "What is the word?",
        "right": word,
        "wrong": "?",
    }


def _mme(n: int, page: Page) -> Row:
    """Pairs of questions on one image, the first one of cognition."""
    category = ["code_reasoning", "OCR", "count"][n // 2 % 3]
    answer = ["Yes", "No"][n % 2]
    return {
        "asked": f"Is this number {n}?",
        "question_id": f"{category}/{n // 2:04}.png",
        "question": f"Is this number {n}? Please answer yes or no.",
        "answer": answer,
        "category": category,
        "right": f"{answer}.",
        "wrong": ["No", "Yes"][n % 2],
    }


def _ai2d(n: int, page: Page) -> Row:
    return {
        "question": "Which letter is on the page?",
        "options": ["alpha", "beta", "gamma", "delta"],
        "answer": str(n % 4),
        "right": f"{'ABCD'[n % 4]}. something",
        "wrong": "BCDA"[n % 4],
    }


SCHEMAS: dict[str, tuple[str, Callable[[int, Page], Row], float]] = {
    "docvqa_val": ("form", _docvqa, 1),
    "ocrbench": ("receipt", _ocrbench, 1),
    "textvqa_val": ("sign", _textvqa, 1),
    "chartqa": ("chart", _chartqa, 1),
    "textcaps_val": ("sign", _textcaps, 10),
    "mmbench_en_dev_static": ("sign", _mmbench, 100),
    "gqa": ("sign", _gqa, 1),
    "vqav2_val": ("sign", _vqav2, 1),
    "mme": ("sign", _mme, 400),
    "ai2d": ("table", _ai2d, 1),
}
"""Kind of page, row, and the metric's value of right answers: MME's counts 200 for each of two categories."""


def rows_of(task: str, count: int = 6) -> list[Row]:
    """Documents with their images and both answers; questions that belong together share the page."""
    kind, row, _ = SCHEMAS[task]
    shared = 2 if task in ("mme", "mmbench_en_dev_static") else 1
    made = []
    for number in range(count):
        page = draw_page(7_000_000 + number // shared, kind)
        made_row = row(number, page)
        made.append({"image": image(page), "asked": made_row.get("question"), **made_row})
    return made


def write(task: str, file: Path, rows: list[Row] | None = None) -> Path:
    """A parquet file as the hub's: the columns of the benchmark, images embedded."""
    columns = [{k: v for k, v in row.items() if k not in FACTS} for row in rows or rows_of(task)]
    table = datasets.Dataset.from_list(columns).cast_column("image", datasets.Image())
    table.to_parquet(file)
    return file
