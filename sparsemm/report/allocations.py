"""Allocations as heatmaps: how many entries each layer and KV head kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sparsemm.report.folder import Results
from sparsemm.report.tables import number

Map = list[list[float | int | None]]


def allocation_maps(results: Results, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One for each cell whose allocation was recorded.

    ``row`` is the index in `rows` (`tables.cell_rows`), ``kept`` and ``nominal`` are [layers][KV heads]:
    entries with the window, means over the documents. ``nominal`` is None for what has no budget, and where
    it is what was kept.

    Raises
    ------
    ValueError
        ``allocations.parquet`` lacks a column.
    """
    table = results.allocations
    if table is None:
        return []
    needed = ("cell", "layer", "kv_head", "kept", "nominal")
    if lacking := [name for name in needed if name not in table.columns]:
        raise ValueError(f"{results.folder / 'allocations.parquet'} lacks the columns {', '.join(lacking)}")
    of_cell = {row["id"]: at for at, row in enumerate(rows) if row["id"]}
    found = [
        {"row": of_cell[str(cell)], "kept": (kept := _map(part, "kept")), "nominal": _nominal(part, kept)}
        for cell, part in table.groupby("cell", sort=False)
        if str(cell) in of_cell
    ]
    return sorted(found, key=lambda one: one["row"])


def _map(part: pd.DataFrame, column: str) -> Map:
    wide = part.pivot(index="layer", columns="kv_head", values=column).sort_index().sort_index(axis=1)
    return [[number(value) for value in row] for row in wide.to_numpy(dtype=float).round(2)]


def _nominal(part: pd.DataFrame, kept: Map) -> Map | None:
    nominal = None if part["nominal"].isna().any() else _map(part, "nominal")
    return None if nominal == kept else nominal
