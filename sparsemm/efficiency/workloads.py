"""What is asked of the pages: short answers and long ones, the documents of two of the local tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sparsemm.documents import Page
from sparsemm.documents.drawn import draw_page, draw_question
from sparsemm.models.loading import Checkpoint
from sparsemm.models.prompts import asked, prepare
from sparsemm.tiny import OCR_PROMPT


@dataclass(frozen=True)
class Workload:
    """A kind of question; pages and limit are those of the local task that asks it.

    Attributes
    ----------
    question
        What is asked of a page.
    first_seed
        Of the first page.
    max_new_tokens
        Upper limit of generated tokens.
    """

    question: Callable[[Page], str]
    first_seed: int
    max_new_tokens: int

    def pages(self, count: int) -> list[Page]:
        """The first pages."""
        return [draw_page(self.first_seed + index, PAGES[index % len(PAGES)]) for index in range(count)]


PAGES = ("form", "receipt", "table")
"""Kinds of pages, in turn."""

ASKED = ("value", "key", "total", "cell")
"""Kinds of questions, of which one that the page answers is drawn."""


WORKLOADS = {
    "lookup": Workload(lambda page: draw_question(page, ASKED).text, 10_000, 32),
    "transcription": Workload(lambda page: OCR_PROMPT, 20_000, 224),
}
"""``tiny_docvqa`` asks for one word or number (about 5 tokens), ``tiny_ocr`` for the page (about 90)."""


def batches(workload: Workload, pages: Sequence[Page], size: int, checkpoint: Checkpoint) -> list[Any]:
    """The pages' prompts as left-padded inputs on the model's device, `size` pages in each."""
    found = []
    for start in range(0, len(pages), size):
        some = pages[start : start + size]
        chats = [asked(page.image, workload.question(page)) for page in some]
        found.append(prepare(checkpoint, chats))
    return found
