"""A page of a seed: forms, receipts, tables, charts and signs, with a box for every word."""

from __future__ import annotations

import random
from dataclasses import dataclass

from PIL import Image

from sparsemm.documents.fonts import SEEN_FONTS, SIZES, load_face
from sparsemm.documents.forms import lay_dense, lay_form, lay_receipt, lay_table
from sparsemm.documents.pictures import lay_chart, lay_sign, sign_colours
from sparsemm.documents.question import Question
from sparsemm.documents.sheet import Sheet, Word
from sparsemm.documents.words import Split

VERSION = 2
"""Raised whenever the same seed would give another page; caches of pages carry it in their name."""

GRIDS = {
    32: ((4, 8),),
    48: ((6, 8), (4, 12)),
    64: ((8, 8),),
    96: ((12, 8), (8, 12)),
    144: ((12, 12), (18, 8)),
    192: ((16, 12), (12, 16)),
    288: ((18, 16), (24, 12)),
}
"""Page shapes (rows, columns) in visual tokens, by number of visual tokens."""

LAYOUTS = {
    "form": lay_form,
    "receipt": lay_receipt,
    "table": lay_table,
    "chart": lay_chart,
    "sign": lay_sign,
}

KINDS = tuple(LAYOUTS)

MAX_TILT = 0.6
"""Degrees; every other page is tilted by up to this. A row of 256 pixels then rises by less than three."""


@dataclass(frozen=True)
class Page:
    """A drawn page.

    Attributes
    ----------
    image : PIL.Image.Image
        RGB, sides are multiples of 16 pixels.
    lines : tuple of tuple of Word
        Reading order: top to bottom, left to right.
    questions : tuple of Question
        What can be asked; no question twice. Empty on dense pages only.
    kind : str
        One of ``KINDS``.
    font, seed, tokens
        Face, seed and number of visual tokens (16 x 16 pixels each).
    """

    image: Image.Image
    lines: tuple[tuple[Word, ...], ...]
    questions: tuple[Question, ...]
    kind: str
    font: str
    seed: int
    tokens: int

    @property
    def text(self) -> str:
        """The transcription: words joined by one space, lines by a line feed."""
        return "\n".join(" ".join(word.text for word in line) for line in self.lines)


def make_page(
    seed: int,
    *,
    kind: str = "form",
    split: Split = "eval",
    tokens: int = 144,
    font: str | None = None,
    grid: tuple[int, int] | None = None,
    dense: bool = False,
) -> Page:
    """Draw the page of a seed; the same arguments give the same page everywhere.

    Parameters
    ----------
    seed : int
        Pages of the two splits differ for equal seeds, and share no word and no key.
    kind : {"form", "receipt", "table", "chart", "sign"}, default "form"
    split : {"train", "eval"}
        Whose words and keys are used.
    tokens : int, default 144
        Visual tokens of the page; one of ``GRIDS``.
    font : str, optional
        Face; default: one of ``SEEN_FONTS``, by seed.
    grid : (rows, columns), optional
        Page shape in visual tokens, one of ``GRIDS[tokens]``; default: one of them, by seed.
    dense : bool, default False
        Fill every row with random characters, whatever the kind: for teaching characters. No questions.

    Raises
    ------
    ValueError
        Unknown ``tokens``, ``kind``, ``split``, ``font`` or ``grid``.
    """
    if tokens not in GRIDS:
        raise ValueError(f"no page shape for {tokens} visual tokens; known: {', '.join(map(str, GRIDS))}")
    if kind not in LAYOUTS:
        raise ValueError(f"unknown kind of page {kind!r}; known: {', '.join(LAYOUTS)}")
    if split not in ("train", "eval"):
        raise ValueError(f"split must be 'train' or 'eval', got {split!r}")
    if grid is not None and grid not in GRIDS[tokens]:
        raise ValueError(f"no page of {tokens} visual tokens has the shape {grid}; known: {GRIDS[tokens]}")
    if font is not None and font not in SIZES:
        raise ValueError(f"unknown font {font!r}; known: {', '.join(SIZES)}")
    rng = random.Random(f"{VERSION}/{split}/{seed}/{kind}/{tokens}/{dense}")
    # drawn even if given, so that a given shape or face changes nothing else
    rows, columns = rng.choice(GRIDS[tokens])
    rows, columns = grid or (rows, columns)
    seen_font = rng.choice(SEEN_FONTS)
    font = font or seen_font
    face = load_face(font, rng.choice(SIZES[font]))
    grey, black = rng.randint(190, 255), rng.randint(0, 80)
    paper, ink = sign_colours(rng) if kind == "sign" else ((grey, grey, grey), (black, black, black))
    sheet = Sheet(rng, rows, columns, face, paper, ink)
    questions: list[Question] = []
    if dense:
        lay_dense(sheet, rng)
    else:
        questions = LAYOUTS[kind](sheet, rng, split)
    noise = rng.randint(0, 30 if kind == "sign" else 20)
    tilt = rng.uniform(-MAX_TILT, MAX_TILT) if rng.random() < 0.5 else 0.0
    image, lines = sheet.finish(noise, tilt)
    return Page(image, lines, tuple(dict.fromkeys(questions)), kind, font, seed, tokens)
