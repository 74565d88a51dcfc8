"""One number for a method: the root mean square of its scores relative to FullKV's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy.stats import bootstrap

from sparsemm.figures.panels import drawable
from sparsemm.figures.style import FULL_WIDTH, NARROW, RC, legend_columns, legend_order, method_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESAMPLES = 4000
TASK_MARKERS = "ov^sDPX*"
"""Markers of tasks, one after the other; from the ninth task on they repeat."""


def relative_scores(cells: pd.DataFrame) -> pd.DataFrame:
    """Every method's score over FullKV's, task by task and budget by budget, seeds averaged.

    Only (task, budget) pairs that all methods of a model have count, and at which each evicted from every
    document (where ``n_uncompressed`` says so): at a budget above the prompt every ratio is 1 and says
    nothing. Tasks on which FullKV scores nothing are left out.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv``, FullKV's among them.

    Returns
    -------
    pandas.DataFrame
        Columns ``model, method, task, budget, ratio``.
    """
    cells = drawable(cells, "overall_score")
    full = cells[cells["method"] == "fullkv"].groupby(["model", "task"])["score"].mean().rename("full")
    rows = cells[cells["budget"].notna()].join(full, on=["model", "task"])
    rows = rows[rows["full"] > 0]
    if "n_uncompressed" in rows:
        touched = ~(rows["n_uncompressed"] > 0)
        whole = touched.groupby([rows["model"], rows["task"], rows["budget"]]).transform("all")
        rows = rows[whole]
    keys = ["model", "method", "task", "budget"]
    means = rows.assign(ratio=rows["score"] / rows["full"]).groupby(keys, as_index=False)["ratio"].mean()
    methods = means.groupby("model")["method"].transform("nunique")
    shared = means.groupby(["model", "task", "budget"])["method"].transform("nunique")
    return means[shared == methods].reset_index(drop=True)


def overall_scores(cells: pd.DataFrame) -> pd.DataFrame:
    """Each method's overall score: the root mean square of its ratios to FullKV over tasks and budgets.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv``, FullKV's among them.

    Returns
    -------
    pandas.DataFrame
        ``model, method, overall, low, high, points``. `low` and `high` are the ends of a 95% bootstrap
        interval (percentile, 4000 resamples, fixed seed) over the (task, budget) pairs of which there are
        `points`: how much the number depends on which tasks and budgets were run, not on the documents.
        Empty of fewer than two pairs.
    """
    found = []
    for (model, method), rows in relative_scores(cells).groupby(["model", "method"], sort=False):
        ratios = rows["ratio"].to_numpy(float)
        low, high = np.nan, np.nan
        if len(ratios) > 1:
            drawn = bootstrap(
                (ratios,), _rms, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
            )
            low, high = drawn.confidence_interval
        found.append((model, method, float(_rms(ratios)), low, high, len(ratios)))
    return pd.DataFrame(found, columns=["model", "method", "overall", "low", "high", "points"])


@mpl.rc_context(RC)
def overall_score(cells: pd.DataFrame, *, width: float = FULL_WIDTH) -> Figure:
    """Draw each method's overall score with its 95% interval, and each task's alone; models side by side.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv``, FullKV's among them.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.

    Raises
    ------
    ValueError
        If FullKV is missing, or no pair of task and budget is there that all methods have.
    """
    table, ratios = overall_scores(cells), relative_scores(cells)
    if table.empty:
        raise ValueError(
            "an overall score needs FullKV, and a budget that evicts at which every method was run"
        )
    models = list(table["model"].unique())
    methods = sorted(table["method"].unique(), key=legend_order)
    tasks = list(dict.fromkeys(task for task in cells["task"] if task in set(ratios["task"])))
    lines, columns = (len(models), 1) if width < NARROW else (1, len(models))
    figure = Figure(figsize=(width, lines * (0.19 * len(methods) + 0.6) + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for panel, model in zip(panels, models, strict=True):
        _draw(panel, table[table["model"] == model], ratios[ratios["model"] == model], methods, tasks)
        points = table.loc[table["model"] == model, "points"].iloc[0]
        panel.set_title(f"{model}\n{points} pairs of task and budget", fontsize=7)
    label = "score over FullKV's (root mean square)"
    figure.supxlabel(label, fontsize=mpl.rcParams["axes.labelsize"])
    panels[0].set_yticks(range(len(methods)), [method_style(method).label for method in methods])
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    handles = [
        Line2D([], [], color="0.5", marker=_marker(number), linestyle="", label=task, markerfacecolor="none")
        for number, task in enumerate(tasks)
    ]
    overall = Line2D([], [], color="0.2", marker="d", markersize=6, label="all, 95% bootstrap over pairs")
    labels = [str(handle.get_label()) for handle in (overall, *handles)]
    figure.legend(
        [overall, *handles], labels, loc="outside upper center", ncols=legend_columns(labels, width)
    )
    return figure


def _draw(
    panel: Axes, table: pd.DataFrame, ratios: pd.DataFrame, methods: list[str], tasks: list[str]
) -> None:
    numbers = table[["low", "high", "overall"]].to_numpy(float)
    for method, (low, high, overall) in zip(table["method"], numbers, strict=True):
        place, color = methods.index(method), method_style(method).color
        panel.plot([low, high], [place, place], color=color, linewidth=2.0, zorder=3)
        panel.plot([overall], [place], color=color, marker="d", markersize=6, zorder=4)
        own = ratios[ratios["method"] == method]
        for number, task in enumerate(tasks):
            of_task = own.loc[own["task"] == task, "ratio"].to_numpy(float)
            if len(of_task):
                panel.plot(
                    [_rms(of_task)], [place], color=color, marker=_marker(number), linestyle="",
                    markerfacecolor="none", markersize=4, markeredgewidth=0.7, zorder=2,
                )  # fmt: skip
    panel.axvline(1, color="black", linestyle="--", linewidth=0.8, zorder=1)
    panel.set_xlim(left=0)
    panel.grid(axis="y", visible=False)


def _marker(number: int) -> str:
    return TASK_MARKERS[number % len(TASK_MARKERS)]


def _rms(ratios: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    return np.sqrt(np.mean(np.square(ratios), axis=axis))
