"""Which cells are one line of a chart and one row of the sample grid, and what they are called."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from sparsemm.evaluation.tables import QUESTION_AFTER, SETTINGS, without_seed
from sparsemm.figures.ablation import ABLATION_STYLES
from sparsemm.figures.style import legend_order, method_style

PLAIN = ("prompt", "ablation", "fraction")
"""Settings that the page has columns and filters for; the others are named where they differ."""


def line_names(cells: pd.DataFrame) -> list[str]:
    """What the line of each cell is called: ``SparseMM, question after``.

    Cells of one line differ in budget (without one, in the share of heads switched off) and seed alone.
    Settings that differ between cells of the same method are named.
    """
    names = [""] * len(cells)
    keys = ["model", "task", "method", *PLAIN]
    for _, rows in cells.reset_index(drop=True).groupby(keys, dropna=False, sort=False):
        differing = [
            name for name in SETTINGS if name not in PLAIN and len(set(map(without_seed, rows[name]))) > 1
        ]
        for index, row in rows.iterrows():
            names[int(str(index))] = ", ".join([_plain_name(row), *_differences(row, rows, differing)])
    return names


def _plain_name(row: pd.Series) -> str:
    parts = [method_style(str(row["method"])).label]
    if row["prompt"] == QUESTION_AFTER:
        parts.append("question after")
    if pd.notna(row["ablation"]):
        style = ABLATION_STYLES.get(str(row["ablation"]))
        without_budget = pd.isna(row["budget"])
        parts.append(style.label if style else str(row["ablation"]))
        if not without_budget:
            parts.append(share(row["fraction"]))
    return ", ".join(parts)


def _differences(row: pd.Series, rows: pd.DataFrame, differing: Iterable[str]) -> list[str]:
    found = []
    for name in differing:
        value = row[name]
        if not isinstance(value, str) or not value.startswith("{"):
            found.append(f"{name} {'none' if pd.isna(value) else value}")
            continue
        held = [json.loads(text) for text in rows[name].dropna().unique()]
        mine: Mapping[str, Any] = json.loads(value)
        for key in sorted(mine.keys() - {"seed"}):
            if any(other.get(key) != mine[key] for other in held):
                found.append(f"{key} {mine[key]}")
    return found


def share(value: Any) -> str:
    """A share in percent, without superfluous digits."""
    return "" if pd.isna(value) else f"{100 * float(value):.4g} %"


def column_of(row: pd.Series) -> tuple[float, str]:
    """Where a cell stands in its line: place on the axis, and label. FullKV, which has none, is at 0."""
    if pd.notna(row["budget"]):
        budget = float(row["budget"])
        return budget, share(budget) if budget <= 1 else f"{budget:g}"
    if pd.notna(row["ablation"]):
        return float(row["fraction"] or 0), f"{share(row['fraction'])} of heads off"
    return 0.0, "all"


def in_order(cells: pd.DataFrame) -> list[int]:
    """Rows by task, then as in legends, prompt, ablation, budget and seed."""
    tasks = {
        pair: at for at, pair in enumerate(dict.fromkeys(zip(cells["model"], cells["task"], strict=True)))
    }

    def key(at: int) -> tuple[Any, ...]:
        row = cells.iloc[at]
        first = pd.notna(row["ablation"]), row["method"] != "fullkv"
        return (
            tasks[row["model"], row["task"]],
            *first,
            str(row["prompt"]),
            str(row["ablation"]),
            legend_order(str(row["method"])),
            *(-1.0 if pd.isna(row[name]) else float(row[name]) for name in ("fraction", "budget", "seed")),
        )

    return sorted(range(len(cells)), key=key)
