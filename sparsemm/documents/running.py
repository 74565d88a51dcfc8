"""Pages of running text that look photographed, in the manner of SynthDoG (arXiv 2111.15664)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from sparsemm.documents.camera import Camera
from sparsemm.documents.columns import Placed, lay_columns
from sparsemm.documents.sheet import Word
from sparsemm.documents.surfaces import make_desk, make_paper

RUNNING_VERSION = 1
"""Raised whenever the same seed would give another page of running text."""

SIZE = (960, 1280)
"""Width and height, in pixels, unless another size is asked for."""

SMALLEST = 128
"""Least pixels to a side."""


@dataclass(frozen=True)
class RunningPage:
    """A page of running text.

    Attributes
    ----------
    image : PIL.Image.Image
        RGB.
    lines : tuple of tuple of Word
        Reading order: column by column, from the top; boxes hold the ink, in pixels of the image. The words
        have no ``edges``.
    seed : int
    """

    image: Image.Image
    lines: tuple[tuple[Word, ...], ...]
    seed: int

    @property
    def text(self) -> str:
        """The transcription: words joined by one space, lines by a line feed."""
        return "\n".join(" ".join(word.text for word in line) for line in self.lines)


def make_running_page(seed: int, *, size: tuple[int, int] = SIZE) -> RunningPage:
    """Draw the page of a seed: English sentences in blocks and columns on paper that lies on a desk.

    Parameters
    ----------
    seed : int
    size : (width, height), default (960, 1280)
        In pixels. The sizes of text follow the width, and are never below the smallest of `fonts.SIZES`.

    Raises
    ------
    ValueError
        A side below 128 pixels.
    """
    if min(size) < SMALLEST:
        raise ValueError(f"a page of running text has at least {SMALLEST} pixels to a side, got {list(size)}")
    lines = lay_columns(random.Random(_name(seed, size)), *size)
    image, camera = picture(seed, size, lines)
    words = tuple(tuple(Word(word.text, camera.moved(word.box), ()) for word in line) for line in lines)
    return RunningPage(image, words, seed)


def picture(
    seed: int, size: tuple[int, int], lines: Sequence[Sequence[Placed]]
) -> tuple[Image.Image, Camera]:
    """Print lines on the paper of a seed and photograph it; what is printed changes nothing else."""
    generator = np.random.default_rng(int(hashlib.sha256(_name(seed, size).encode()).hexdigest()[:15], 16))
    camera = Camera(generator, *size)
    desk, paper = make_desk(generator, *size), make_paper(generator, *size)
    inked = Image.new("L", size)
    draw = ImageDraw.Draw(inked)
    for word in (word for line in lines for word in line):
        draw.text(word.origin, word.text, font=word.font, fill=255, anchor="ls")
    colour = np.array(lines[0][0].ink if lines else (0, 0, 0), dtype=np.float32)
    cover = np.asarray(inked, dtype=np.float32)[..., None] / 255
    return camera.photograph(paper * (1 - cover) + colour * cover, desk), camera


def _name(seed: int, size: tuple[int, int]) -> str:
    width, height = size
    return f"running/{RUNNING_VERSION}/{seed}/{width}x{height}"
