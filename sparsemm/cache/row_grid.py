"""Where decoded rows lie while many of them share a prompt: a grid of documents x slots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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


@dataclass(frozen=True, eq=False)
class Placement:
    """Where rows lie, on the device: the maps by which every layer moves them. See `RowGrid`."""

    documents: Tensor
    slots: int
    stored: int
    heads_of_grid: Tensor
    grid_of_store: Tensor
    row_of_store: Tensor | None
    store_of_row: Tensor | None

    @classmethod
    def of(cls, grid: RowGrid, kv_heads: int, device: torch.device) -> Placement:
        """Copy a grid to the device; rows that are stored without gaps need no map."""

        def there(host: NDArray[np.int64]) -> Tensor:
            return torch.from_numpy(host).to(device)

        lines, slots = len(grid.documents), grid.slots
        head = np.arange(kv_heads)
        row = grid.row_of_slot.reshape(lines, 1, slots)
        line, slot = np.divmod(grid.slot_of_row[grid.row_of_store][:, None], slots)
        dense = len(grid.store_of_row) == grid.stored
        return cls(
            documents=there(grid.documents),
            slots=slots,
            stored=grid.stored,
            heads_of_grid=there((row * kv_heads + head[:, None]).ravel()),
            grid_of_store=there(((line * kv_heads + head) * slots + slot).ravel()),
            row_of_store=None if dense else there(grid.row_of_store),
            store_of_row=None if dense else there(grid.store_of_row),
        )

    def to_grid(self, rows: Tensor) -> Tensor:
        """[R, KV heads, ...] in the rows' order -> [D, KV heads, S, ...]."""
        places = rows.flatten(0, 1).index_select(0, self.heads_of_grid)
        return places.view(len(self.documents), -1, self.slots, *rows.shape[2:])

    def grid_to_store(self, places: Tensor) -> Tensor:
        """[D, KV heads, S, ...] -> [stored, KV heads, ...]."""
        rows = places.flatten(0, 2).index_select(0, self.grid_of_store)
        return rows.view(-1, places.shape[1], *places.shape[3:])

    def to_store(self, rows: Tensor) -> Tensor:
        """[R, ...] in the rows' order -> [stored, ...]."""
        return rows if self.row_of_store is None else rows.index_select(0, self.row_of_store)

    def from_store(self, stored: Tensor) -> Tensor:
        """[stored, ...] -> [R, ...] in the rows' order."""
        return stored if self.store_of_row is None else stored.index_select(0, self.store_of_row)


def _inverse(places: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    rows = np.zeros(count, dtype=np.int64)
    rows[places] = np.arange(len(places))
    return rows
