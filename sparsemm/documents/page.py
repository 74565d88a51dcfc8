"""A page: words, key/value forms and small tables, drawn from a seed, with a box for every word."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from sparsemm.documents.fonts import SEEN_FONTS, SIZES, load_font
from sparsemm.documents.words import Split, make_key, make_noise_word, make_value, make_word

VERSION = 1
"""Raised whenever the same seed would give another page; caches of pages carry it in their name."""

TOKEN_PIXELS = 16
"""One visual token of the embedded model covers 16 x 16 pixels; a line of text is as high."""

GRIDS = {
    32: ((4, 8),),
    48: ((6, 8), (4, 12)),
    64: ((8, 8),),
    96: ((12, 8), (8, 12)),
    144: ((12, 12), (18, 8)),
    192: ((16, 12), (12, 16)),
}
"""Page shapes (rows, columns) in visual tokens, by number of visual tokens."""


@dataclass(frozen=True)
class Word:
    """A drawn word; ``box`` is (left, top, right, bottom) in pixels, its characters equally wide."""

    text: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Page:
    """A drawn page.

    Attributes
    ----------
    image : PIL.Image.Image
        RGB, sides are multiples of 16 pixels.
    lines : tuple of tuple of Word
        Reading order: top to bottom, left to right.
    fields : tuple of (key, value)
        What can be looked up; keys are unique on the page.
    font, seed, tokens
        Face, seed and number of visual tokens (16 x 16 pixels each).
    """

    image: Image.Image
    lines: tuple[tuple[Word, ...], ...]
    fields: tuple[tuple[str, str], ...]
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
    split: Split = "eval",
    tokens: int = 96,
    font: str | None = None,
    grid: tuple[int, int] | None = None,
    dense: bool = False,
) -> Page:
    """Draw the page of a seed; the same arguments give the same page everywhere.

    Parameters
    ----------
    seed : int
        Pages of the two splits differ for equal seeds, and share no word and no key.
    split : {"train", "eval"}
        Whose words and keys are used.
    tokens : int, default 96
        Visual tokens of the page; one of ``GRIDS``.
    font : str, optional
        Face; default: one of ``SEEN_FONTS``, by seed.
    grid : (rows, columns), optional
        Page shape in visual tokens, one of ``GRIDS[tokens]``; default: one of them, by seed.
    dense : bool, default False
        Fill every line with random characters: for teaching characters, not reading. No fields.

    Raises
    ------
    ValueError
        Unknown ``tokens``, ``split``, ``font`` or ``grid``.
    """
    if tokens not in GRIDS:
        raise ValueError(f"no page shape for {tokens} visual tokens; known: {', '.join(map(str, GRIDS))}")
    if split not in ("train", "eval"):
        raise ValueError(f"split must be 'train' or 'eval', got {split!r}")
    rng = random.Random(f"{VERSION}/{split}/{seed}/{tokens}/{dense}")
    rows, columns = rng.choice(
        GRIDS[tokens]
    )  # drawn even if given, so that a given shape changes nothing else
    if grid is not None:
        if grid not in GRIDS[tokens]:
            raise ValueError(
                f"no page of {tokens} visual tokens has the shape {grid}; known: {GRIDS[tokens]}"
            )
        rows, columns = grid
    chosen_font = rng.choice(SEEN_FONTS)  # likewise
    font = font or chosen_font
    if font not in SIZES:
        raise ValueError(f"unknown font {font!r}; known: {', '.join(SIZES)}")
    face = load_font(font, rng.choice(SIZES[font]))
    advance = round(face.getlength("0"))
    width, height = columns * TOKEN_PIXELS, rows * TOKEN_PIXELS
    paper, ink = rng.randint(190, 255), rng.randint(0, 80)
    image = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(image)
    draw.fontmode = "L"
    _, cap_top, _, cap_bottom = map(int, face.getbbox("H"))

    layout = (
        _dense_layout(rng, rows, width // advance) if dense else _layout(rng, split, rows, width // advance)
    )
    lines: list[tuple[Word, ...]] = []
    fields: dict[str, str] = {}
    slack_y = TOKEN_PIXELS - (cap_bottom - cap_top)
    page_shift = rng.randint(0, 2)
    for row, line in layout:
        used = len(line.text) * advance
        left = min(rng.randint(0, 10), width - used) if line.indent else max(0, min(1, width - used))
        top = row * TOKEN_PIXELS + min(slack_y - 1, max(1, page_shift + rng.randint(0, 2)))
        words = []
        column = 0
        for text in line.text.split(" "):
            x = left + column * advance
            draw.text((x, top - cap_top), text, font=face, fill=ink)
            words.append(Word(text, (x, top, x + len(text) * advance, top + cap_bottom - cap_top)))
            column += len(text) + 1
        lines.append(tuple(words))
        fields.update(line.fields)
        if line.ruled:
            draw.line(
                (left, row * TOKEN_PIXELS + 15, min(width - 1, left + used), row * TOKEN_PIXELS + 15),
                fill=ink,
            )
    return Page(_with_noise(image, rng), tuple(lines), tuple(fields.items()), font, seed, tokens)


@dataclass(frozen=True)
class _Line:
    text: str
    fields: tuple[tuple[str, str], ...] = ()
    indent: bool = True
    ruled: bool = False


def _layout(rng: random.Random, split: Split, rows: int, columns: int) -> list[tuple[int, _Line]]:
    """Which line of text stands in which row: blocks of prose, forms and tables, blank rows between."""
    keys: set[str] = set()

    def field() -> tuple[str, str]:
        while (key := make_key(rng, split)) in keys:
            pass
        keys.add(key)
        return key, make_value(rng)

    placed: list[tuple[int, _Line]] = []
    row = 0
    while row < rows:
        kind = rng.choices(("words", "form", "table", "blank"), (3, 5, 2, 7))[0]
        room = min(rows - row, rng.randint(1, 3))
        if kind == "blank":
            row += 1
            continue
        if kind == "table" and room > 1:
            header = f"{make_word(rng, split, 3)} {make_word(rng, split, 4)}"
            placed.append((row, _Line(header, indent=False, ruled=True)))
            row, room = row + 1, room - 1
        for _ in range(room):
            if kind == "words":
                line = _Line(_prose(rng, split, columns))
            else:
                pairs = [field()]
                if kind == "form" and columns >= 20 and rng.random() < 0.5:
                    pairs.append(field())
                line = _Line(" ".join(f"{key} {value}" for key, value in pairs), tuple(pairs), kind == "form")
            placed.append((row, line))
            row += 1
    if not keys:  # every page can be asked about
        pair = field()
        placed = [(r, line) for r, line in placed if r != 0]
        placed.insert(0, (0, _Line(f"{pair[0]} {pair[1]}", (pair,))))
    return placed


def _prose(rng: random.Random, split: Split, columns: int) -> str:
    """One to three words that fit the line."""
    text = make_word(rng, split, 8)
    for _ in range(rng.randint(0, 2)):
        word = make_word(rng, split, 8)
        if len(text) + 1 + len(word) <= columns - 2:
            text += " " + word
    return text


def _dense_layout(rng: random.Random, rows: int, columns: int) -> list[tuple[int, _Line]]:
    """Every row full of random characters."""
    placed = []
    for row in range(rows):
        text = make_noise_word(rng, rng.randint(1, 8))
        while len(text) < columns - 2:
            text += " " + make_noise_word(rng, rng.randint(1, min(8, columns - len(text) - 1)))
        placed.append((row, _Line(text)))
    return placed


def _with_noise(image: Image.Image, rng: random.Random) -> Image.Image:
    """Add uniform pixel noise of a random strength (0 to 20 grey levels) and return RGB."""
    strength = rng.randint(0, 20)
    pixels = np.asarray(image, dtype=np.int16)
    if strength:
        noise = np.random.default_rng(rng.getrandbits(63)).integers(
            -strength, strength + 1, pixels.shape, np.int16
        )
        pixels = np.clip(pixels + noise, 0, 255)
    return Image.fromarray(pixels.astype(np.uint8)).convert("RGB")
