"""Paired differences between methods against budget: where a method's gain comes from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from sparsemm.figures.panels import label_budgets
from sparsemm.figures.style import FULL_WIDTH, RC, MethodStyle, legend_columns

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("model", "task", "method", "reference", "budget", "difference", "ci_low", "ci_high")
"""Needed columns of ``comparisons.csv``."""

PAIR_STYLES = {
    ("sparsemm", "sparsemm_flat"): MethodStyle("SparseMM over equal budgets", "#000000", "o", "--"),
    ("sparsemm_layer_mean", "sparsemm_flat"): MethodStyle("of it by layers", "#56B4E9", "v"),
    ("sparsemm", "sparsemm_layer_mean"): MethodStyle("of it by heads", "#D55E00", "D"),
}
"""SparseMM's gain over equal budgets, and the two parts that it is the sum of."""


@mpl.rc_context(RC)
def differences_vs_budget(comparisons: pd.DataFrame, *, width: float = FULL_WIDTH) -> Figure:
    """Draw what SparseMM's allocation gains, and which part of it the layers' means give: tasks as panels.

    Bands are 95% intervals, paired over the documents. Budgets descend on a logarithmic axis, as in
    `accuracy_vs_budget`.

    Parameters
    ----------
    comparisons : pandas.DataFrame
        Rows of ``comparisons.csv`` of one model; the columns in `COLUMNS` are needed.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.

    Raises
    ------
    ValueError
        If columns are missing, there are several models, or none of the pairs of `PAIR_STYLES` is there.
    """
    if missing := [column for column in COLUMNS if column not in comparisons.columns]:
        raise ValueError(f"differences_vs_budget needs the columns {', '.join(missing)} of comparisons.csv")
    pairs = list(zip(comparisons["method"], comparisons["reference"], strict=True))
    drawn = np.array([pair in PAIR_STYLES for pair in pairs], dtype=bool)
    rows = comparisons[drawn & comparisons["budget"].notna().to_numpy()]
    if rows.empty:
        raise ValueError("differences_vs_budget needs sparsemm, sparsemm_layer_mean and sparsemm_flat")
    if rows["model"].nunique() > 1:
        raise ValueError("comparisons of several models: draw them one by one")
    tasks = list(rows["task"].unique())
    columns = min(2, len(tasks))
    lines = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(width, 1.9 * lines + 0.45), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    handles = {}
    budgets = sorted({float(budget) for budget in rows["budget"]}, reverse=True)
    for panel, task in zip(panels, tasks, strict=False):
        panel.axhline(0, color="0.4", linewidth=0.8, zorder=1)
        for (method, reference), style in PAIR_STYLES.items():
            shown = rows[
                (rows["task"] == task) & (rows["method"] == method) & (rows["reference"] == reference)
            ].sort_values("budget")
            if shown.empty:
                continue
            places, values, low, high = (
                shown[name].to_numpy(float) for name in ("budget", "difference", "ci_low", "ci_high")
            )
            if np.isfinite([low, high]).all():
                panel.fill_between(places, low, high, color=style.color, alpha=0.15, linewidth=0)
            (handles[style.label],) = panel.plot(places, values, zorder=3, **style.line())
        label_budgets(panel, budgets, inches=width / columns - 0.7)
        panel.set_title(str(task))
        panel.set_ylabel("difference in score")
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    figure.supxlabel("budget (KV entries per layer and head)", fontsize=mpl.rcParams["axes.labelsize"])
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=legend_columns(list(handles), width),
    )
    return figure
