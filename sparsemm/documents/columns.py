"""Running text laid out in blocks and columns, in several sizes; every word knows where its ink will be."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import ImageFont

from sparsemm.documents.fonts import SIZES, font_folder
from sparsemm.documents.prose import sentences
from sparsemm.documents.sheet import Colour

FACES = {
    "DejaVuSans": "DejaVuSans-Bold",
    "DejaVuSerif": "DejaVuSerif-Bold",
    "STIXGeneral": "STIXGeneralBol",
    "DejaVuSansMono": "DejaVuSansMono-Bold",
}
"""Faces of running text, and of the headings above it."""

Font = ImageFont.FreeTypeFont
Box = tuple[int, int, int, int]


@lru_cache(maxsize=256)
def load_font(name: str, pixels: int) -> Font:
    """A face at a size, drawn by the layout engine that every Pillow build has."""
    file = str(font_folder() / f"{name}.ttf")
    return ImageFont.truetype(file, pixels, layout_engine=ImageFont.Layout.BASIC)


@dataclass(frozen=True)
class Placed:
    """A word on the paper: where its baseline begins, and the box of its ink; in pixels."""

    text: str
    font: Font
    ink: Colour
    origin: tuple[int, int]
    box: Box


class Words:
    """Words of running text, one at a time; the next one can be looked at before it is taken."""

    def __init__(self, source: Iterator[str]) -> None:
        self._source = source
        self._left: list[str] = []
        self.sentence_ended = True

    def upcoming(self, fits: Callable[[str], bool]) -> str:
        """The next word. A new sentence is taken only if each of its words fits."""
        while not self._left:
            words = next(self._source).split()
            if all(fits(word) for word in words):
                self._left = words
        return self._left[0]

    def take(self) -> str:
        """The next word, and go on."""
        word = self._left.pop(0)
        self.sentence_ended = not self._left
        return word


def lay_columns(rng: random.Random, width: int, height: int) -> list[list[Placed]]:
    """Fill paper of so many pixels with running text.

    One to three columns of blocks; a block has one size and one alignment, some have a heading. A sentence
    that a block or column cuts off goes on in the next.

    Returns
    -------
    list of lines
        In reading order: column by column, line by line, word by word.
    """
    words = Words(sentences(rng))
    face = rng.choice(list(FACES))
    smallest = SIZES[face][0]
    base = max(smallest, round(rng.uniform(0.018, 0.030) * width))
    margin = max(4, round(rng.uniform(0.04, 0.08) * width))
    gap = 2 * base
    most = max(1, min(3, (width - 2 * margin + gap) // (16 * base + gap)))
    columns = rng.randint(1, most)
    room = (width - 2 * margin - (columns - 1) * gap) // columns
    black = rng.randint(0, 70)
    ink = (black, black, min(255, black + rng.choice((0, 0, 25))))
    foot = height - margin
    lines: list[list[Placed]] = []
    for column in range(columns):
        left = margin + column * (room + gap)
        y = margin + rng.randint(0, base)
        while y + base < foot:
            pixels = max(smallest, round(base * rng.choice((0.85, 1, 1, 1, 1.2))))
            leading = round(pixels * rng.uniform(1.3, 1.6))
            if rng.random() < 0.3 and height > 30 * base:
                heading = round(pixels * 1.4)
                if y + 2 * heading + 2 * leading >= foot:
                    break
                y += round(heading * 1.2)
                lines.append(_heading(rng, load_font(FACES[face], heading), ink, (left, y), room))
                y += heading // 2
            count = rng.randint(3, 9)
            align = rng.choice(("left", "left", "justified", "justified", "right"))
            font = load_font(face, pixels)
            done = 0
            while y + leading < foot and not (done >= count and words.sentence_ended):
                y += leading
                done += 1
                lines.append(_line(words, font, ink, (left, y), room, align, last=done >= count))
            y += round(base * rng.uniform(0.8, 1.8))
            if rng.random() < 0.12:  # the column ends early
                break
    return lines


def _line(
    words: Words, font: Font, ink: Colour, at: tuple[int, int], room: int, align: str, *, last: bool
) -> list[Placed]:
    """One line of a paragraph: as many words as fit; if it may be the `last`, a sentence's end ends it."""
    space = max(4, round(font.getlength(" ")))
    texts: list[str] = []
    used = 0

    def width_of(text: str) -> int:
        return round(font.getlength(text))

    def fits_alone(text: str) -> bool:
        return width_of(text) <= room

    while used + width_of(words.upcoming(fits_alone)) <= room:
        text = words.take()
        texts.append(text)
        used += width_of(text) + space
        if last and words.sentence_ended:
            break
    over = room - (used - space)
    full = over < room / 4
    x = at[0] + (over if align == "right" else 0)
    placed = []
    for index, text in enumerate(texts):
        shift = over * index // max(1, len(texts) - 1) if align == "justified" and full else 0
        placed.append(_place(text, font, ink, (x + shift, at[1])))
        x += width_of(text) + space
    return placed


def _heading(rng: random.Random, font: Font, ink: Colour, at: tuple[int, int], room: int) -> list[Placed]:
    """The first words of another sentence, on one line."""
    texts: list[str] = []
    source = sentences(rng)
    while not texts:
        for text in next(source).rstrip(".?!").split()[: rng.randint(2, 5)]:
            if font.getlength(" ".join([*texts, text])) > room:
                break
            texts.append(text)
    x, placed = at[0], []
    for text in texts:
        placed.append(_place(text, font, ink, (x, at[1])))
        x += round(font.getlength(text)) + max(4, round(font.getlength(" ")))
    return placed


def _place(text: str, font: Font, ink: Colour, origin: tuple[int, int]) -> Placed:
    measured: Any = font.getbbox(text, anchor="ls")
    left, top, right, bottom = map(int, measured)
    return Placed(
        text,
        font,
        ink,
        origin,
        (origin[0] + left, origin[1] + top, origin[0] + right, origin[1] + bottom),
    )
