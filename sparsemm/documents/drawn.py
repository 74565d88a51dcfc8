"""Pages of mixed sizes and one question for each, drawn by seed: what the local tasks and benchmarks ask."""

from __future__ import annotations

import random
from collections.abc import Sequence

from sparsemm.documents.page import Page, make_page
from sparsemm.documents.question import Question

SIZES = (144, 192, 288)
"""Visual tokens of the pages, drawn for each: the difficulty."""


def draw_page(seed: int, kind: str) -> Page:
    """The evaluation page of a seed and kind, in one of `SIZES`."""
    tokens = random.Random(f"size/{seed}").choice(SIZES)
    return make_page(seed, kind=kind, split="eval", tokens=tokens)


def draw_question(page: Page, kinds: Sequence[str]) -> Question:
    """One of a page's questions, by its seed: first one of `kinds` that it can be asked, then which."""
    rng = random.Random(page.seed)
    kind = rng.choice([kind for kind in kinds if any(one.kind == kind for one in page.questions)])
    return rng.choice([question for question in page.questions if question.kind == kind])
