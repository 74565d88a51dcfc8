"""The tables of a results folder as the page shows them: rows of cells, comparisons, heads, allocations."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsemm.figures.ablation import ABLATION_STYLES
from sparsemm.figures.save import read_decode
from sparsemm.figures.style import figure_of, legend_order, method_style
from sparsemm.figures.sweep import NOT_HERE, find_head_scores
from sparsemm.heads import HeadScores
from sparsemm.report.folder import Results
from sparsemm.report.lines import column_of, in_order, line_names, share

DIGITS = 6
"""Significant digits of numbers in the page."""

BETTER, WORSE, EQUAL = "better", "worse", "equal"

EFFICIENCY_COLUMNS = (
    *("shape", "layers", "layers_of", "prompt", "prompt_tokens", "batch_size", "method", "budget", "cache"),
    *("decoding", "backend", "realised_budget", "prefill_s", "decode_ms", "decode_ms_q1", "decode_ms_q3"),
    *("ratio", "ratio_min", "ratio_max", "kv_bytes", "times_floor", "dtype", "device", "failed"),
)
"""Columns of ``decode.csv`` that the page shows."""


def number(value: Any) -> float | int | None:
    """A finite number, rounded to `DIGITS`; None for what is empty."""
    if value is None or pd.isna(value):
        return None
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    found = float(value)
    if not math.isfinite(found):
        return None
    rounded = float(f"{found:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def text(value: Any) -> str:
    """A text; an empty one for what is empty."""
    return "" if value is None or pd.isna(value) else str(value)


def mark(difference: Any, low: Any, high: Any) -> str:
    """Whether a difference's interval excludes zero: ``better``, ``worse``, ``equal``; empty without one."""
    if pd.isna(difference) or pd.isna(low) or pd.isna(high):
        return ""
    if low > 0 or high < 0:
        return BETTER if low > 0 else WORSE
    return EQUAL


def groups(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """One for each model and task, in the order of the table; the model is named if there are several."""
    several = cells["model"].nunique() > 1
    found: list[dict[str, Any]] = []
    for (model, task), rows in cells.groupby(["model", "task"], sort=False):
        name = f"{task} ({model})" if several else str(task)
        first = rows.iloc[0]
        found.append(
            {"name": name, "model": str(model), "task": str(task), "metric": text(first["metric"])}
            | {"n": number(first["n"])}
        )
    return found


def methods(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Label, colour, marker and figure of each method, in the order of legends."""
    names = sorted({str(name) for name in cells["method"]}, key=legend_order)
    return [
        {"name": name, "label": style.label, "color": style.color, "dash": style.linestyle}
        | {"filled": style.filled, "marker": style.marker, "figure": figure_of(name)}
        for name in names
        for style in [method_style(name)]
    ]


def ablations(cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Label and colour of each ablation."""
    found = []
    for name in dict.fromkeys(str(name) for name in cells["ablation"].dropna()):
        style = ABLATION_STYLES.get(name) or method_style(name)
        found.append({"name": name, "label": style.label, "color": style.color, "dash": style.linestyle})
    return found


def cell_rows(cells: pd.DataFrame, ids: Sequence[str]) -> list[dict[str, Any]]:
    """One for each cell, ordered for reading.

    ``group`` is the index in `groups`, ``line`` what the cell's line is called, ``place`` and ``column``
    where it stands in it, ``source`` the row of ``cells.csv``.
    """
    names = line_names(cells)
    of_group = {(one["model"], one["task"]): at for at, one in enumerate(groups(cells))}
    found = []
    for at in in_order(cells):
        row = cells.iloc[at]
        place, column = column_of(row)
        found.append(
            {
                "group": of_group[row["model"], row["task"]],
                "id": ids[at] if ids else "",
                "source": at,
                "method": str(row["method"]),
                "line": names[at],
                "prompt": text(row["prompt"]),
                "ablation": text(row["ablation"]),
                "fraction": share(row["fraction"]),
                "budget": number(row["budget"]),
                "place": number(place),
                "column": column,
                "seed": number(row["seed"]),
                "score": number(row["score"]),
                "ci": [number(row["ci_low"]), number(row["ci_high"])],
                "diff": number(row["diff_full"]),
                "diff_ci": [number(row["diff_ci_low"]), number(row["diff_ci_high"])],
                "mark": ""
                if _is_full(row)
                else mark(row["diff_full"], row["diff_ci_low"], row["diff_ci_high"]),
                "n": number(row["n"]),
                "failed": number(row["n_failed"]),
                "agreement": number(row["agreement_full"]),
                "realised": number(row["realised_budget"]),
                "kv_bytes": number(row["kv_bytes"]),
                "full_kv_bytes": number(row["full_kv_bytes"]),
                "prefill_s": number(row["prefill_s"]),
                "decode_s": number(row["decode_s_per_token"]),
            }
        )
    return found


def _is_full(row: pd.Series) -> bool:
    return row["method"] == "fullkv" and pd.isna(row["ablation"])


def comparison_rows(table: pd.DataFrame | None, cells: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of ``comparisons.csv``, with the mark of each difference."""
    if table is None:
        return []
    of_group = {(one["model"], one["task"]): at for at, one in enumerate(groups(cells))}
    found = []
    for _, row in table.iterrows():
        group = of_group.get((row["model"], row["task"]))
        if group is None:
            continue
        budgets = number(row["budgets"]) or 0
        budget = number(row["budget"])
        mean = f"mean of {budgets}" if budgets > 1 else "no budget"
        found.append(
            {
                "group": group,
                "compared": text(row["compared"]),
                "first": _label(row["compared"], text(row.get(row["compared"]))),
                "second": _label(row["compared"], text(row["reference"])),
                "method": text(row["method"]),
                "prompt": text(row["prompt"]),
                "ablation": text(row["ablation"]),
                "fraction": share(row["fraction"]),
                "reference": text(row["reference"]),
                "budget": budget,
                "column": mean if budget is None else column_of(row)[1],
                "difference": number(row["difference"]),
                "ci": [number(row["ci_low"]), number(row["ci_high"])],
                "mark": mark(row["difference"], row["ci_low"], row["ci_high"]),
                "n": number(row["n"]),
            }
        )
    return found


def _label(compared: str, name: str) -> str:
    """What a method or an ablation is called in legends."""
    if compared == "method":
        return method_style(name).label
    style = ABLATION_STYLES.get(name)
    return style.label if compared == "ablation" and style else name


def head_maps(results: Results, given: Sequence[Path] = ()) -> tuple[list[dict[str, Any]], list[str]]:
    """Files of head scores that the cells used, as shares of the sum in percent; and which are missing."""
    maps, notices = [], []
    for label in sorted(str(name) for name in results.cells["head_scores"].dropna().unique()):
        file = find_head_scores(label, results.folder, given)
        if file is None:
            notices.append(f"the head scores {label} {NOT_HERE}: they are not shown")
            continue
        scores = HeadScores.load(file)
        table = 100 * scores.scores / scores.scores.sum()
        card = scores.card
        maps.append(
            {"name": label, "share": [[number(value) for value in row] for row in table]}
            | {"rule": text(card.get("rule")), "n": card.get("n"), "model": text(card.get("model"))}
        )
    return maps, notices


def efficiency_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of the ``decode.csv`` of a folder, or of that file (`sparsemm.figures.save.read_decode`).

    Raises
    ------
    InputError
        If it is not there, or no such table.
    """
    table = read_decode(path)
    return [
        {
            name: number(row[name]) if isinstance(row[name], numbers.Number) else text(row[name])
            for name in EFFICIENCY_COLUMNS
        }
        | {"color": method_style(str(row["method"])).color, "label": method_style(str(row["method"])).label}
        for _, row in table.iterrows()
    ]
