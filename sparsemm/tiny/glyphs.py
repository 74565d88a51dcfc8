"""The auxiliary task of training: which characters each visual token holds."""

from __future__ import annotations

import numpy as np

from sparsemm.documents import Page
from sparsemm.documents.words import ALPHABET

TOKEN_PIXELS = 16
"""Side of a visual token of the embedded model, in pixels."""

SLOTS = 4
"""Upright stripes of a visual token, 4 pixels wide: no two characters have their middle in one of them."""

GLYPHS = {character: index + 1 for index, character in enumerate(ALPHABET)}
"""Classes of the auxiliary task; 0 is "no character here"."""


def glyph_labels(page: Page) -> np.ndarray:
    """[N, SLOTS] class of the character whose middle lies in each stripe of each visual token."""
    columns, rows = page.image.width // TOKEN_PIXELS, page.image.height // TOKEN_PIXELS
    labels = np.zeros((rows, columns * SLOTS), dtype=np.int64)
    for line in page.lines:
        for word in line:
            _, top, _, bottom = word.box
            row = min(rows - 1, (top + bottom) // 2 // TOKEN_PIXELS)
            for left, right, character in zip(word.edges[:-1], word.edges[1:], word.text, strict=True):
                slot = (left + right) * SLOTS // (2 * TOKEN_PIXELS)
                if 0 <= slot < columns * SLOTS and not labels[row, slot]:
                    labels[row, slot] = GLYPHS[character]
    return labels.reshape(-1, SLOTS)
