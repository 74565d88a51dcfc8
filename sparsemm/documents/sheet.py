"""A sheet of paper: text, rules and bars are drawn on rows of 16 pixels, and every word's box is kept."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from sparsemm.documents.fonts import Face

TOKEN_PIXELS = 16
"""One visual token of the embedded model covers 16 x 16 pixels; a row of text is as high."""

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Word:
    """A drawn word.

    Attributes
    ----------
    text : str
    box : (left, top, right, bottom)
        Pixels, right and bottom excluded.
    edges : tuple of int
        Where each character begins, in pixels from the left side of the sheet; then where the last one ends.
    """

    text: str
    box: tuple[int, int, int, int]
    edges: tuple[int, ...]


class Sheet:
    """Paper of ``rows`` x ``columns`` visual tokens that is written upon.

    Parameters
    ----------
    rng : random.Random
        Decides where in its row a text stands, and in the end tilt and noise.
    rows, columns : int
        In visual tokens.
    face : Face
    paper, ink : (red, green, blue)
    """

    def __init__(
        self, rng: random.Random, rows: int, columns: int, face: Face, paper: Colour, ink: Colour
    ) -> None:
        self.rows, self.columns, self.face = rows, columns, face
        self.width, self.height = columns * TOKEN_PIXELS, rows * TOKEN_PIXELS
        self._rng, self._paper, self._ink = rng, paper, ink
        self._image = Image.new("RGB", (self.width, self.height), paper)
        self._draw = ImageDraw.Draw(self._image)
        self._words: dict[int, list[Word]] = {}
        self._drop = rng.randint(0, 2)

    def width_of(self, text: str) -> int:
        """Pixels that a text takes; words are one space apart."""
        return sum(self.face.advances(text))

    def fits(self, text: str, room: int | None = None) -> bool:
        """Whether a text fits into ``room`` pixels (default: the sheet's width, two pixels spare)."""
        return self.width_of(text) <= (self.width - 2 if room is None else room)

    def write(self, row: int, left: int, text: str) -> int:
        """Write words that are one space apart; returns where the text ends, in pixels."""
        height = self.face.cap_bottom - self.face.cap_top
        slack = TOKEN_PIXELS - height
        top = row * TOKEN_PIXELS + min(slack - 1, max(1, self._drop + self._rng.randint(0, 2)))
        x = left
        for text_of_word in text.split(" "):
            edges = [x]
            for character in text_of_word:
                mask, (dx, dy), advance = self.face.glyph(character)
                self._image.paste(self._ink, (x + dx, top - self.face.cap_top + dy), mask)
                x += advance
                edges.append(x)
            box = (edges[0], top, x, top + height)
            self._words.setdefault(row, []).append(Word(text_of_word, box, tuple(edges)))
            x += self.face.glyph(" ")[2]
        return x - self.face.glyph(" ")[2]

    def rule(self, row: int, left: int, right: int) -> None:
        """Draw a line along the lower edge of a row."""
        y = row * TOKEN_PIXELS + TOKEN_PIXELS - 1
        self._draw.line((left, y, min(self.width, right) - 1, y), fill=self._ink)

    def bar(self, left: int, top: int, right: int, bottom: int, fill: Colour) -> None:
        """Fill a rectangle, outlined in ink; right and bottom excluded."""
        self._draw.rectangle((left, top, right - 1, bottom - 1), fill=fill, outline=self._ink)

    def finish(self, noise: int, tilt: float) -> tuple[Image.Image, tuple[tuple[Word, ...], ...]]:
        """Tilt the sheet by ``tilt`` degrees about its middle, add ``noise`` grey levels to every pixel.

        Returns
        -------
        image, lines
            Lines in reading order: rows from the top, words from the left; boxes hold the tilted words.
        """
        image = self._image
        lines = [sorted(self._words[row], key=lambda word: word.box) for row in sorted(self._words)]
        if tilt:
            image = image.rotate(tilt, Image.Resampling.BILINEAR, fillcolor=self._paper)
            lines = [[self._tilted(word, tilt) for word in line] for line in lines]
        if noise:
            pixels = np.asarray(image, dtype=np.int16)
            generator = np.random.default_rng(self._rng.getrandbits(63))
            grain = generator.integers(-noise, noise + 1, (*pixels.shape[:2], 1), np.int16)
            image = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
        return image, tuple(tuple(line) for line in lines)

    def _tilted(self, word: Word, degrees: float) -> Word:
        """The word where the tilt (counter-clockwise) has taken it; the box stays upright."""
        sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
        middle_x, middle_y = self.width / 2, self.height / 2

        def moved(x: float, y: float) -> tuple[float, float]:
            dx, dy = x - middle_x, y - middle_y
            return middle_x + cosine * dx + sine * dy, middle_y + cosine * dy - sine * dx

        left, top, right, bottom = word.box
        corners = [moved(x, y) for x in (left, right) for y in (top, bottom)]
        xs, ys = zip(*corners, strict=True)
        box = (
            max(0, math.floor(min(xs))),
            max(0, math.floor(min(ys))),
            min(self.width, math.ceil(max(xs))),
            min(self.height, math.ceil(max(ys))),
        )
        edges = tuple(round(moved(x, (top + bottom) / 2)[0]) for x in word.edges)
        return Word(word.text, box, edges)
