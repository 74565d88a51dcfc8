"""The documents of the local tasks: generated pages and their questions in the official benchmarks' schemas.

Beside the official columns, which is all that the official code reads, every document says in ``page``,
``asked`` and ``tokens`` what kind of page and question it is and how many visual tokens the page has.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sparsemm.documents import Page, Question
from sparsemm.documents.drawn import draw_page, draw_question
from sparsemm.tiny import OCR_PROMPT

DOCUMENTS = 500
FACTS = ("page", "asked", "tokens")
"""Columns that no official code reads."""

Row = dict[str, Any]


@dataclass(frozen=True)
class LocalTask:
    """How a task's documents are made.

    Attributes
    ----------
    first_seed : int
        Of the first document's page, evaluation split; head scores use pages from seed 2,000,000 on.
    pages : tuple of str
        Kinds of pages, in turn.
    asked : tuple of str
        Kinds of questions; empty: the transcription.
    row : callable
        Index, page, question -> the official columns.
    """

    first_seed: int
    pages: tuple[str, ...]
    asked: tuple[str, ...]
    row: Callable[[int, Page, Question], Row]


def _docvqa(index: int, page: Page, question: Question) -> Row:
    return {
        "questionId": str(index),
        "question": question.text,
        "question_types": ["form" if page.kind == "form" else "table/list"],
        "image": _png(page),
        "docId": page.seed,
        "ucsf_document_id": "",
        "ucsf_document_page_no": "1",
        "answers": [question.answer],
        "data_split": "val",
    }


def _ocr(index: int, page: Page, question: Question) -> Row:
    return {
        "dataset": "tiny_ocr",
        "question": question.text,
        "question_type": "Regular Text Recognition" if page.kind == "form" else "Key Information Extraction",
        "answer": [question.answer],
        "image": _png(page),
    }


def _chartqa(index: int, page: Page, question: Question) -> Row:
    return {
        "type": "augmented_test" if question.kind == "value" else "human_test",
        "question": question.text,
        "answer": question.answer,
        "image": _png(page),
    }


def _textvqa(index: int, page: Page, question: Question) -> Row:
    return {
        "image_id": str(page.seed),
        "question_id": index,
        "question": question.text,
        "question_tokens": question.text.rstrip("?").lower().split(),
        "image": _png(page),
        "image_width": page.image.width,
        "image_height": page.image.height,
        "flickr_original_url": "",
        "flickr_300k_url": "",
        "answers": [question.answer] * 10,  # ten people were asked
        "image_classes": ["sign"],
        "set_name": "val",
        "ocr_tokens": [word.text for line in page.lines for word in line],
    }


TASKS: Mapping[str, LocalTask] = {
    "tiny_docvqa": LocalTask(
        10_000, ("form", "receipt", "table"), ("value", "key", "total", "cell"), _docvqa
    ),
    "tiny_ocr": LocalTask(20_000, ("form", "receipt", "table"), (), _ocr),
    "tiny_chartqa": LocalTask(30_000, ("chart",), ("value", "compare", "largest"), _chartqa),
    "tiny_textvqa": LocalTask(40_000, ("sign",), ("say", "number"), _textvqa),
}


def page_of(task: str, index: int) -> Page:
    """The page of a task's document."""
    made = TASKS[task]
    return draw_page(made.first_seed + index, made.pages[index % len(made.pages)])


def question_of(task: str, page: Page) -> Question:
    """What the task asks of a page; a transcription's answer is one line of the page, by the page's seed."""
    if asked := TASKS[task].asked:
        return draw_question(page, asked)
    return Question("ocr", OCR_PROMPT, random.Random(page.seed).choice(page.text.split("\n")))


def documents(task: str, count: int = DOCUMENTS) -> list[Row]:
    """The first documents of a local task, in the official benchmark's schema; images are PNG bytes."""
    found = []
    for index in range(count):
        page = page_of(task, index)
        question = question_of(task, page)
        facts = {"page": page.kind, "asked": question.kind, "tokens": page.tokens}
        found.append({**TASKS[task].row(index, page, question), **facts})
    return found


def _png(page: Page) -> Row:
    buffer = io.BytesIO()
    # Pages are noisy: the default level takes more than twice as long and makes no smaller files.
    page.image.save(buffer, format="PNG", compress_level=3)
    return {"bytes": buffer.getvalue(), "path": None}
