"""Accuracy against budget: what a method's memory costs in score."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from sparsemm.evaluation.tables import SETTINGS, without_seed
from sparsemm.figures.style import FULL_WIDTH, RC, legend_order, method_style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

COLUMNS = ("model", "task", "metric", "method", "budget", "score")
"""Needed columns of ``cells.csv``; ``ci_low``, ``ci_high`` and ``n`` are used where they are filled."""

PANEL_INCHES = 2.0
"""Least width of a panel; as many tasks as fit stand side by side."""

TICK_INCHES = 0.26
"""Least distance of two budget labels: a label of four digits fits."""

LETTER_INCHES = 0.06
"""Width that a letter of the legend is given."""


@mpl.rc_context(RC)
def accuracy_vs_budget(cells: pd.DataFrame, *, width: float = FULL_WIDTH) -> Figure:
    """Draw score against nominal budget: tasks as panels, methods as lines; every model begins a new row.

    The budget axis is logarithmic (base 2) and descends, as in the paper (arXiv 2506.05344): compression
    grows to the right. A method without a budget (FullKV) is a dashed horizontal line. Seeds of a method are
    averaged. Confidence bands are drawn where ``ci_low`` and ``ci_high`` are filled and a point is one row.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv`` (`sparsemm.load_results`); the columns in `COLUMNS` are needed.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.

    Raises
    ------
    ValueError
        If columns are missing, no row has a score, budgets mix token counts and shares of the prompt, or rows
        of one line differ in more than their seed.
    """
    cells = _drawable(cells)
    models, tasks = list(cells["model"].unique()), list(cells["task"].unique())
    budgets = sorted({float(budget) for budget in cells["budget"].dropna()}, reverse=True)
    rows_per_model = math.ceil(len(tasks) / max(1, width // PANEL_INCHES))
    columns = math.ceil(len(tasks) / rows_per_model)
    rows, panel_width = rows_per_model * len(models), width / columns
    methods = sorted(cells["method"].unique(), key=legend_order)
    labels = [method_style(method).label for method in methods]
    per_row = min(len(methods), max(1, int(width / (0.5 + LETTER_INCHES * max(map(len, labels))))))
    height = min(0.85 * panel_width, 2.4) * rows + 0.3 + 0.17 * math.ceil(len(methods) / per_row)
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).reshape(len(models), -1)
    for panel in panels[:, len(tasks) :].flat:
        panel.set_axis_off()
    handles = {}
    for (row, model), (column, task) in itertools.product(enumerate(models), enumerate(tasks)):
        panel: Axes = panels[row, column]
        shown = cells.loc[(cells["model"] == model) & (cells["task"] == task)]
        if shown.empty:
            panel.set_axis_off()
            continue
        for method in methods:
            if (shown["method"] == method).any():
                handles[method] = _draw_method(panel, method, shown.loc[shown["method"] == method])
        _label_panel(panel, shown, budgets, inches=panel_width - 0.7)
        panel.set_title(_title(model, task, shown))
    if budgets:
        unit = "share of the prompt" if budgets[0] <= 1 else "KV entries per layer and head"
        figure.supxlabel(f"budget ({unit})", fontsize=mpl.rcParams["axes.labelsize"])
    ordered = [handles[method] for method in methods]
    figure.legend(ordered, labels, loc="outside upper center", ncols=per_row)
    return figure


def _drawable(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows with a score; raises ValueError where a figure of them would mislead."""
    if missing := [column for column in COLUMNS if column not in cells.columns]:
        raise ValueError(f"accuracy_vs_budget needs the columns {', '.join(missing)} of cells.csv")
    cells = cells.dropna(subset=["score"])
    if cells.empty:
        raise ValueError("accuracy_vs_budget needs at least one cell with a score, and the table has none")
    shares = {float(budget) <= 1 for budget in cells["budget"].dropna()}
    if len(shares) > 1:
        raise ValueError("the budgets mix token counts and shares of the prompt: draw them in two figures")
    for (model, task, method), rows in cells.groupby(["model", "task", "method"]):
        if 0 < rows["budget"].isna().sum() < len(rows):
            raise ValueError(
                f"some rows of {method} on {task} with {model} have a budget and others have none"
            )
        check_one_line(rows, f"{method} on {task} with {model}")
    return cells


def check_one_line(rows: pd.DataFrame, name: str) -> None:
    """Raise ValueError where rows that are to be one line differ in more than budget and seed."""
    for column in ("n", *SETTINGS):
        if column in rows and len(set(map(without_seed, rows[column]))) > 1:
            raise ValueError(f"the rows of {name} differ in {column}: choose one")


def _draw_method(panel: Axes, method: str, rows: pd.DataFrame) -> Line2D:
    """One method's line (a horizontal one if it has no budget) and its band; returns the legend's handle."""
    style = method_style(method)
    ci = rows.reindex(columns=["ci_low", "ci_high"]).to_numpy(float)
    banded = bool(np.isfinite(ci).all()) and not rows["budget"].duplicated().any()
    if rows["budget"].isna().all():
        if banded:
            panel.axhspan(ci[0, 0], ci[0, 1], color=style.color, alpha=0.08, linewidth=0)
        return panel.axhline(
            float(rows["score"].to_numpy(float).mean()), color=style.color, linestyle="--", zorder=2
        )
    budgets, scores = rows["budget"].to_numpy(float), rows["score"].to_numpy(float)
    if banded:
        order = np.argsort(budgets)
        panel.fill_between(
            budgets[order], ci[order, 0], ci[order, 1], color=style.color, alpha=0.12, linewidth=0
        )
    points = np.unique(budgets)
    means = [scores[budgets == budget].mean() for budget in points]
    (line,) = panel.plot(points, means, zorder=4 if method == "sparsemm" else 3, **style.line())
    return line


def _label_panel(panel: Axes, rows: pd.DataFrame, budgets: Sequence[float], *, inches: float) -> None:
    """Axes, ticks and labels of one panel `inches` wide. All panels show the same budgets."""
    metric = str(rows["metric"].iloc[0])
    scores = rows["score"].to_numpy(float)
    panel.set_ylabel(f"{metric} (0 to 1)" if scores.min() >= 0 and scores.max() <= 1 else metric)
    label_budgets(panel, budgets, inches=inches)


def label_budgets(panel: Axes, budgets: Sequence[float], *, inches: float) -> None:
    """A logarithmic axis `inches` long on which budgets (given descending) shrink to the right."""
    if not budgets:
        panel.set_xticks([])
        return
    shares = budgets[0] <= 1
    panel.set_xscale("log", base=2)
    margin = 2 ** (0.05 * max(np.log2(budgets[0] / budgets[-1]), 1))
    panel.set_xlim(budgets[0] * margin, budgets[-1] / margin)
    panel.set_xticks(_readable(budgets, inches))
    panel.set_xticks(budgets, minor=True)
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:.0%}" if shares else f"{value:g}")
    )


def _readable(budgets: Sequence[float], inches: float) -> list[float]:
    """The budgets (descending) whose labels fit on a log axis of that length, from the largest on."""
    span = max(np.log2(budgets[0] / budgets[-1]), 1e-9)
    kept: list[float] = []
    for budget in budgets:
        if not kept or np.log2(kept[-1] / budget) / span * inches >= TICK_INCHES:
            kept.append(budget)
    return kept


def _title(model: str, task: str, rows: pd.DataFrame) -> str:
    """Task, model and, where all rows agree on it, the number of documents."""
    documents = set(rows["n"].dropna()) if "n" in rows else set()
    return f"{task}\n{model}, n = {documents.pop():g}" if len(documents) == 1 else f"{task}\n{model}"
