"""Panels of scores: models as rows, tasks as columns; what all figures of scores have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from numpy.typing import NDArray

from sparsemm.evaluation.tables import SETTINGS, without_seed
from sparsemm.figures.style import legend_columns, legend_order, method_style, metric_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

COLUMNS = ("model", "task", "metric", "method", "budget", "score")
"""Needed columns of ``cells.csv``; ``ci_low``, ``ci_high`` and ``n`` are used where they are filled."""

PANEL_INCHES = 1.3
"""Least width of a panel: the paper's five tasks fit side by side on a full page, two in a column."""

NARROW_INCHES = 1.7
"""Panels below this width have the number of documents in a line of its own."""

TICK_INCHES = 0.26
"""Least distance of two budget labels: a label of four digits fits."""

DIGIT_INCHES = 0.053
"""Width of a digit of a label."""


@dataclass(frozen=True, eq=False)
class Panels:
    """An empty figure of scores.

    Attributes
    ----------
    figure : Figure
    cells : pandas.DataFrame
        What is drawn.
    methods : list of str
        In the order of the legend.
    axes : dict
        By (model, task).
    inches : float
        About the length of a panel's axis.
    """

    figure: Figure
    cells: pd.DataFrame
    methods: list[str]
    axes: dict[tuple[str, str], Axes]
    inches: float

    def lines(self) -> Iterator[tuple[Axes, str, pd.DataFrame]]:
        """Every panel with every method that it shows, and the method's rows."""
        for (model, task), panel in self.axes.items():
            shown = self.cells[(self.cells["model"] == model) & (self.cells["task"] == task)]
            for method in self.methods:
                if (shown["method"] == method).any():
                    yield panel, method, shown[shown["method"] == method]

    def label(self, handles: dict[str, Line2D], x: str, **more: Line2D) -> None:
        """Add the legend, `more` behind the methods, and the label of the horizontal axes."""
        names = [method_style(method).label for method in self.methods if method in handles]
        drawn = [handles[method] for method in self.methods if method in handles]
        labels = [*names, *(str(line.get_label()) for line in more.values())]
        columns = legend_columns(labels, self.figure.get_figwidth())
        self.figure.legend([*drawn, *more.values()], labels, loc="outside upper center", ncols=columns)
        self.figure.supxlabel(x, fontsize=mpl.rcParams["axes.labelsize"])


def empty_panels(cells: pd.DataFrame, *, width: float, more: Sequence[str] = ()) -> Panels:
    """Lay out panels for cells: a row for each model, a column for each task.

    Where more tasks are to be shown than fit side by side, each model has several rows.

    Parameters
    ----------
    cells : pandas.DataFrame
        As `drawable` returns them.
    width : float
        Of the figure, in inches.
    more : sequence of str
        Labels that the legend is to have beside the methods'.
    """
    models, tasks = list(cells["model"].unique()), list(cells["task"].unique())
    methods = sorted(cells["method"].unique(), key=legend_order)
    rows_per_model = math.ceil(len(tasks) / max(1, int(width / PANEL_INCHES)))
    columns = math.ceil(len(tasks) / rows_per_model)
    rows, panel_width = rows_per_model * len(models), width / columns
    labels = [*(method_style(method).label for method in methods), *more]
    legend = 0.17 * math.ceil(len(labels) / legend_columns(labels, width))
    height = (min(0.9 * panel_width, 1.9) + 0.25) * rows + 0.3 + legend
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).reshape(len(models), -1)
    axes: dict[tuple[str, str], Axes] = {}
    above: dict[str, str] = {}
    for row, model in enumerate(models):
        unlabelled = True
        for column, panel in enumerate(grid[row]):
            task = tasks[column] if column < len(tasks) else None
            shown = cells[(cells["model"] == model) & (cells["task"] == task)]
            if shown.empty:
                panel.set_axis_off()
                continue
            title = _title(str(task), shown, narrow=panel_width < NARROW_INCHES)
            if above.get(str(task)) != title or rows_per_model > 1:
                panel.set_title(title, fontsize=7)
            above[str(task)] = title
            if unlabelled or column % columns == 0:
                panel.set_ylabel(model, fontsize=7)
            unlabelled = False
            axes[model, str(task)] = panel
    return Panels(figure, cells, methods, axes, panel_width - 0.5)


def drawable(cells: pd.DataFrame, name: str, needed: Sequence[str] = ()) -> pd.DataFrame:
    """The rows with a score; raises ValueError where a figure (`name`) of them would mislead."""
    if missing := [column for column in (*COLUMNS, *needed) if column not in cells.columns]:
        raise ValueError(f"{name} needs the columns {', '.join(missing)} of cells.csv")
    cells = cells.dropna(subset=["score"])
    if cells.empty:
        raise ValueError(f"{name} needs at least one cell with a score, and the table has none")
    if len({float(budget) <= 1 for budget in cells["budget"].dropna()}) > 1:
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


def draw_line(panel: Axes, method: str, rows: pd.DataFrame, x: str) -> Line2D:
    """One method's line over the column `x`, seeds averaged, and its band where every point is one row."""
    style = method_style(method)
    points = rows.groupby("budget", as_index=False).mean(numeric_only=True).sort_values(x)
    places = points[x].to_numpy(float)
    ends = points.reindex(columns=["ci_low", "ci_high"]).to_numpy(float)
    if np.isfinite(ends).all() and not rows["budget"].duplicated().any():
        panel.fill_between(places, ends[:, 0], ends[:, 1], color=style.color, alpha=0.12, linewidth=0)
    front = 4 if method == "sparsemm" else 3
    (line,) = panel.plot(places, points["score"].to_numpy(float), zorder=front, **style.line())
    return line


def draw_level(panel: Axes, method: str, rows: pd.DataFrame) -> Line2D:
    """A method without a budget (FullKV): a dashed line across the panel, and its band."""
    style = method_style(method)
    ends = rows.reindex(columns=["ci_low", "ci_high"]).to_numpy(float)
    if np.isfinite(ends).all() and len(rows) == 1:
        panel.axhspan(ends[0, 0], ends[0, 1], color=style.color, alpha=0.08, linewidth=0)
    level = float(rows["score"].to_numpy(float).mean())
    return panel.axhline(level, color=style.color, linestyle="--", zorder=2)


def budgets_of(cells: pd.DataFrame) -> list[float]:
    """All budgets, descending."""
    return sorted({float(budget) for budget in cells["budget"].dropna()}, reverse=True)


def budget_label(budgets: Sequence[float]) -> str:
    """Label of an axis of budgets, with their unit."""
    unit = "share of the prompt" if budgets and budgets[0] <= 1 else "KV entries per layer and head"
    return f"budget ({unit})"


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


def label_powers(panel: Axes, values: NDArray[np.float64], *, inches: float, descending: bool) -> None:
    """A logarithmic axis `inches` long for measured values, its labels at as many powers of two as fit."""
    low, high = float(values.min()), float(values.max())
    margin = 2 ** (0.05 * max(np.log2(high / low), 1))
    panel.set_xscale("log", base=2)
    ends = (low / margin, high * margin)
    panel.set_xlim(ends[::-1] if descending else ends)
    powers = [2.0**power for power in range(math.floor(np.log2(low)), math.ceil(np.log2(high)) + 1)]
    shown = [power for power in powers[::-1] if ends[0] <= power <= ends[1]]
    widest = max((len(f"{power:g}") for power in shown), default=1)
    step = math.ceil(max(TICK_INCHES, (widest + 1) * DIGIT_INCHES) / inches * np.log2(ends[1] / ends[0]))
    panel.set_xticks(shown[::step])
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _readable(budgets: Sequence[float], inches: float) -> list[float]:
    """The budgets (descending) whose labels fit on a log axis of that length, from the largest on."""
    span = max(np.log2(budgets[0] / budgets[-1]), 1e-9) if budgets else 1.0
    kept: list[float] = []
    for budget in budgets:
        if not kept or np.log2(kept[-1] / budget) / span * inches >= TICK_INCHES:
            kept.append(budget)
    return kept


def _title(task: str, rows: pd.DataFrame, *, narrow: bool) -> str:
    """Task, metric with its unit and, where all rows agree on it, the number of documents."""
    documents = set(rows["n"].dropna()) if "n" in rows else set()
    between = "\n" if narrow else ", "
    count = f"{between}n = {documents.pop():g}" if len(documents) == 1 else ""
    return f"{task}\n{metric_label(str(rows['metric'].iloc[0]))}{count}"
