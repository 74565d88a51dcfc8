"""Where decoded rows lie while many of them share a prompt: a grid of documents x slots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# A grid is made smaller when that saves this share of it: each time costs a copy of the generated tokens' K/V.
WORTH_COMPACTING = 0.15


@dataclass(frozen=True, eq=False)
class RowGrid:
    """Live rows, those of one document side by side.

    Rows leave when their text ends; a slot that nobody needs any more computes along, unread, until the grid
    is made smaller.

    Parameters
    ----------
    documents
        Number in the batch of each grid line's document, shape [D], ascending.
    slots
        Slots of each document, S.
    slot_of_row
        Place ``line * S + slot`` of each live row, shape [R].
    """

    documents: NDArray[np.int64]
    slots: int
    slot_of_row: NDArray[np.int64]

    @classmethod
    def of(cls, documents: NDArray[np.int64]) -> RowGrid:
        """Lay out rows that are sorted by document: `documents` is each row's, shape [R]."""
        lines, line_of_row, counts = np.unique(documents, return_inverse=True, return_counts=True)
        first = np.cumsum(counts) - counts
        slots = int(counts.max())
        places = line_of_row * slots + np.arange(len(documents)) - first[line_of_row]
        return cls(lines, slots, places)

    @property
    def document_of_row(self) -> NDArray[np.int64]:
        """Document of each live row, [R]."""
        return self.documents[self.slot_of_row // self.slots]

    def row_of_slot(self) -> NDArray[np.int64]:
        """Live row of each place, [D * S]; a dead place computes row 0's values again."""
        rows = np.zeros(len(self.documents) * self.slots, dtype=np.int64)
        rows[self.slot_of_row] = np.arange(len(self.slot_of_row))
        return rows

    def keep(self, alive: NDArray[np.bool_]) -> RowGrid:
        """Return the same grid with some rows [R] gone."""
        return RowGrid(self.documents, self.slots, self.slot_of_row[alive])

    def compacted(self) -> RowGrid | None:
        """Return the smallest grid of the live rows, or None if it would save too little."""
        smaller = RowGrid.of(self.document_of_row)
        size, now = len(smaller.documents) * smaller.slots, len(self.documents) * self.slots
        return smaller if size <= (1 - WORTH_COMPACTING) * now else None

    def moves(self, smaller: RowGrid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Say what `smaller` takes from here: lines [its D] and places [its D * S]."""
        lines = np.searchsorted(self.documents, smaller.documents)
        return lines, self.slot_of_row[smaller.row_of_slot()]
