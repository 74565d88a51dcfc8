"""Where decoded rows lie while many of them share a prompt: a grid of documents x slots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WORTH_A_SMALLER_GRID, WORTH_A_SMALLER_STORE = 0.1, 0.25
"""Grid and store are made smaller when that saves this share of them: each time K/V are copied."""


@dataclass(frozen=True, eq=False)
class RowGrid:
    """Live rows, those of one document side by side.

    Rows leave when their text ends. What lies in their places computes along, unread, until it pays to make
    the storage smaller.

    Parameters
    ----------
    documents
        Number in the batch of each grid line's document, shape [D], ascending.
    slots
        Slots of each document, S.
    slot_of_row
        Place ``line * S + slot`` of each live row, shape [R].
    stored
        Rows for which there is storage of their own.
    store_of_row
        Number of each live row among the stored ones, [R].
    """

    documents: NDArray[np.int64]
    slots: int
    slot_of_row: NDArray[np.int64]
    stored: int
    store_of_row: NDArray[np.int64]

    @classmethod
    def of(cls, documents: NDArray[np.int64]) -> RowGrid:
        """Lay out rows that are sorted by document: `documents` is each row's, shape [R]."""
        lines, line_of_row, counts = np.unique(documents, return_inverse=True, return_counts=True)
        rows, slots = np.arange(len(documents)), int(counts.max())
        first = np.cumsum(counts) - counts
        return cls(lines, slots, line_of_row * slots + rows - first[line_of_row], len(rows), rows)

    @property
    def document_of_row(self) -> NDArray[np.int64]:
        """Document of each live row, [R]."""
        return self.documents[self.slot_of_row // self.slots]

    @property
    def row_of_slot(self) -> NDArray[np.int64]:
        """Live row of each place, [D * S]; a dead place repeats row 0."""
        return _inverse(self.slot_of_row, len(self.documents) * self.slots)

    @property
    def row_of_store(self) -> NDArray[np.int64]:
        """Live row of each stored one; a dead one repeats row 0."""
        return _inverse(self.store_of_row, self.stored)

    def keep(self, alive: NDArray[np.bool_]) -> RowGrid:
        """Return the same places with some rows [R] gone."""
        slots, store = self.slot_of_row[alive], self.store_of_row[alive]
        return RowGrid(self.documents, self.slots, slots, self.stored, store)

    def smaller_grid(self) -> RowGrid | None:
        """Return the smallest grid of the live rows, or None if that saves too little."""
        grid = RowGrid.of(self.document_of_row)
        now = len(self.documents) * self.slots
        if len(grid.documents) * grid.slots > (1 - WORTH_A_SMALLER_GRID) * now:
            return None
        return RowGrid(grid.documents, grid.slots, grid.slot_of_row, self.stored, self.store_of_row)

    def smaller_store(self) -> RowGrid | None:
        """Return a layout that stores nothing but the live rows, or None if that saves too little."""
        rows = len(self.store_of_row)
        if rows > (1 - WORTH_A_SMALLER_STORE) * self.stored:
            return None
        return RowGrid(self.documents, self.slots, self.slot_of_row, rows, np.arange(rows))


def _inverse(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    rows = np.zeros(count, dtype=np.int64)
    rows[places] = np.arange(len(places))
    return rows
