"""The masking ablation: what is left of a model's score when heads are switched off."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from sparsemm.figures.panels import check_one_line
from sparsemm.figures.style import FULL_WIDTH, RC, MethodStyle, legend_columns, metric_label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

COLUMNS = ("model", "task", "metric", "method", "ablation", "fraction", "score", "n")
"""Needed columns of ``cells.csv``; ``ci_low`` and ``ci_high`` are used where they are filled."""

PANEL_INCHES = 2.0
"""Least width of a panel."""

ABLATION_STYLES = {
    "mask_visual": MethodStyle("visual heads removed", "#D55E00", "D"),
    "mask_random": MethodStyle("random other heads removed", "#767676", "X"),
    "mask_visual_uniform": MethodStyle(
        "visual heads look everywhere alike", "#D55E00", "D", ":", filled=False
    ),
    "mask_random_uniform": MethodStyle("random other heads, likewise", "#767676", "X", ":", filled=False),
}
"""Styles by configuration name, in the order of the legend."""


@mpl.rc_context(RC)
def mask_ablation(cells: pd.DataFrame, *, width: float = FULL_WIDTH) -> Figure:
    """Draw score against the share of heads switched off: tasks as panels, ablations as lines.

    Bands are 95% intervals over the documents where a point is one draw of heads, and from the lowest to the
    highest draw where it is the mean of several. The dashed line is the model as it is.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv`` of one model, FullKV's; the columns in `COLUMNS` are needed.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.

    Raises
    ------
    ValueError
        If columns are missing, no head is switched off in any row, there are several models, or rows of one
        point differ in more than their seed.
    """
    if missing := [column for column in COLUMNS if column not in cells.columns]:
        raise ValueError(f"mask_ablation needs the columns {', '.join(missing)} of cells.csv")
    cells = cells[cells["method"] == "fullkv"]
    if not cells["ablation"].isin(list(ABLATION_STYLES)).any():
        raise ValueError("mask_ablation needs rows of FullKV with an ablation")
    if cells["model"].nunique() > 1:
        raise ValueError("ablations of several models: draw them one by one")
    tasks = list(cells["task"].unique())
    columns = min(len(tasks), max(1, int(width // PANEL_INCHES)), 2 if len(tasks) == 4 else len(tasks))
    lines = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(width, 1.9 * lines + 0.5), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).reshape(-1)
    handles: dict[str, Line2D] = {}
    for panel, task in zip(panels, tasks, strict=False):
        rows = cells[cells["task"] == task]
        whole = rows.loc[rows["ablation"].isna(), "score"].to_numpy(float)
        for name, style in ABLATION_STYLES.items():
            shown = rows[rows["ablation"] == name]
            if not shown.empty:
                for _, point in shown.groupby("fraction"):
                    check_one_line(point, f"{name} on {task}")
                handles[style.label] = _draw(panel, shown, style)
        if len(whole):
            full = panel.axhline(whole[0], color="black", linestyle="--", linewidth=0.9, zorder=2)
            handles["the model as it is"] = full
        panel.set_xlim(left=0)
        panel.set_ylim(bottom=0)
        panel.set_title(f"{task}, n = {rows['n'].iloc[0]:g}")
        panel.set_ylabel(metric_label(str(rows["metric"].iloc[0])))
    for panel in panels[len(tasks) :]:
        panel.set_axis_off()
    figure.supxlabel("query heads switched off (% of all)", fontsize=mpl.rcParams["axes.labelsize"])
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="outside upper center",
        ncols=legend_columns(list(handles), width),
    )
    return figure


def _draw(panel: Axes, rows: pd.DataFrame, style: MethodStyle) -> Line2D:
    """One ablation's line and its band."""
    fractions = np.unique(rows["fraction"].to_numpy(float))
    groups = [rows[rows["fraction"] == fraction] for fraction in fractions]
    places = 100 * fractions
    means = [group["score"].to_numpy(float).mean() for group in groups]
    ends = np.array([_ends(group) for group in groups])
    if np.isfinite(ends).all():
        panel.fill_between(places, ends[:, 0], ends[:, 1], color=style.color, alpha=0.12, linewidth=0)
    (line,) = panel.plot(places, means, zorder=3, **style.line())
    return line


def _ends(group: pd.DataFrame) -> tuple[float, float]:
    """Ends of a point's band."""
    if len(group) > 1:
        return float(group["score"].min()), float(group["score"].max())
    found = group.reindex(columns=["ci_low", "ci_high"]).to_numpy(float)[0]
    return float(found[0]), float(found[1])
