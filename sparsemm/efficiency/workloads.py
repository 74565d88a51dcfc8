"""What is asked of the pages: short answers and long ones, as in the two local tasks."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sparsemm.documents import Page, make_page
from sparsemm.models.checkpoint import Checkpoint
from sparsemm.tiny import OCR_PROMPT


@dataclass(frozen=True)
class Workload:
    """A kind of question; limits are those of the local task that asks it.

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
        return [make_page(self.first_seed + index, tokens=TOKENS) for index in range(count)]


TOKENS = 144
"""Visual tokens of every page."""


def _lookup(page: Page) -> str:
    return random.Random(page.seed).choice(page.questions).text


WORKLOADS = {
    "lookup": Workload(_lookup, 10_000, 32),
    "transcription": Workload(lambda page: OCR_PROMPT, 20_000, 224),
}
"""``tiny_docvqa`` asks for a value (about 5 tokens), ``tiny_ocr`` for the whole page (about 90)."""


def batches(workload: Workload, pages: Sequence[Page], size: int, checkpoint: Checkpoint) -> list[Any]:
    """The pages' prompts as left-padded inputs on the model's device, `size` pages in each."""
    found = []
    for start in range(0, len(pages), size):
        some = pages[start : start + size]
        chats = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
            for question in map(workload.question, some)
        ]
        processor = checkpoint.processor
        inputs = processor(
            text=processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False),
            images=[[page.image] for page in some],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        found.append(inputs.to(checkpoint.device, checkpoint.dtype))
    return found
