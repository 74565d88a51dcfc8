"""Where the budget goes: entries of every layer and KV head, as the rule wants them and as they were kept."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from sparsemm.figures.style import FULL_WIDTH, RC, figure_of, legend_order, method_style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

COLUMNS = ("model", "method", "budget", "prompt", "seed", "layer", "kv_head", "nominal", "kept", "n")
"""Needed columns of ``allocations.parquet``."""

MAP_INCHES = 1.05
"""Least width of a map with its labels."""


@mpl.rc_context(RC)
def allocation_heatmap(allocations: pd.DataFrame, *, width: float = FULL_WIDTH) -> Figure:
    """Draw the entries of every (layer, KV head), window included: methods as columns, nominal above kept.

    *Nominal* is what a method's rule wants for each head before it is cut at what a prompt has: SparseMM
    may want more of its best heads than the prompt is long. *Kept* is what was counted, mean over the
    documents of all tasks: there the head has at most the whole prompt, and the others have what is over.
    AdaKV's heads compete anew in every prompt: nominal is their layer's mean. Colours are logarithmic and
    common to all maps. A method with several seeds is shown with its first: a mean would blur them.

    Parameters
    ----------
    allocations : pandas.DataFrame
        Rows of ``allocations.parquet`` of one model, one form of prompts and one budget; the columns in
        `COLUMNS` are needed. FullKV's are left out.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.

    Raises
    ------
    ValueError
        If columns or rows are missing, or there are several models, forms of prompts or budgets.
    """
    if missing := [column for column in COLUMNS if column not in allocations.columns]:
        raise ValueError(f"allocation_heatmap needs the columns {', '.join(missing)} of allocations.parquet")
    rows = allocations[allocations["budget"].notna()]
    if rows.empty:
        raise ValueError("allocation_heatmap needs rows with a budget")
    for column in ("model", "prompt", "budget"):
        if rows[column].nunique() > 1:
            raise ValueError(f"allocations of several values of {column}: draw them one by one")
    methods = sorted(rows["method"].unique(), key=legend_order)
    per_line = min(len(methods), max(1, int((width - 0.6) / MAP_INCHES)))
    lines = math.ceil(len(methods) / per_line)
    per_line = math.ceil(len(methods) / lines)
    tables = {method: _tables(rows[rows["method"] == method]) for method in methods}
    layers, heads = next(iter(tables.values()))[1].shape
    map_width = (width - 0.9) / per_line - 0.2
    map_height = float(np.clip(map_width * layers / heads, 0.7, 1.6))
    figure = Figure(figsize=(width, lines * (2 * map_height + 0.75) + 0.35), layout="constrained")
    axes = figure.subplots(2 * lines, per_line, squeeze=False, sharex=True, sharey=True)
    everything = np.concatenate([table.ravel() for pair in tables.values() for table in pair])
    norm = LogNorm(max(np.nanmin(everything), 0.5), np.nanmax(everything))
    image = None
    for number in range(lines * per_line):
        line, column = divmod(number, per_line)
        pair = axes[2 * line, column], axes[2 * line + 1, column]
        if number >= len(methods):
            for panel in pair:
                panel.set_visible(False)
            continue
        method = methods[number]
        for panel, table in zip(pair, tables[method], strict=True):
            image = _draw(panel, table, norm)
        pair[0].set_title(_name(method, rows[rows["method"] == method]))
        if column == 0:
            pair[0].set_ylabel("nominal\nlayer")
            pair[1].set_ylabel("kept\nlayer")
    first = rows.iloc[0]
    budget = f"{first['budget']:g}" if first["budget"] > 1 else f"{first['budget']:.0%} of the prompt"
    figure.suptitle(f"{first['model']}, budget {budget}", fontsize=mpl.rcParams["axes.titlesize"])
    figure.supxlabel("KV head", fontsize=mpl.rcParams["axes.labelsize"])
    if image is not None:
        bar = figure.colorbar(image, ax=axes, label="KV entries, window included", fraction=0.03, pad=0.01)
        bar.ax.yaxis.set_major_locator(LogLocator(base=2, numticks=10))
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    return figure


def heatmap_rows(allocations: pd.DataFrame) -> pd.DataFrame:
    """The rows that `save` draws of one model and form of prompts: the main methods, at the middle budget.

    The middle one of those that all shown methods have and at which they keep less than FullKV does, where
    FullKV is among the rows.
    """
    rows = allocations[allocations["ablation"].isna()]
    full = rows.loc[rows["method"] == "fullkv", "kept"]
    most = full.mean() if len(full) else np.inf
    rows = rows[rows["budget"].notna()]
    main = rows[rows["method"].map(figure_of) == "main"]
    rows = main if len(main) else rows
    methods = rows.groupby("budget")["method"].nunique()
    kept = rows.groupby("budget")["kept"].mean()
    budgets = [budget for budget in methods.index[methods == methods.max()] if kept[budget] < 0.95 * most]
    return rows[rows["budget"] == budgets[len(budgets) // 2]] if budgets else rows.iloc[:0]


def _tables(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Nominal and kept entries [layers, KV heads] of one method, means over its tasks' documents."""
    seeds = rows["seed"].dropna()
    if len(seeds):
        rows = rows[rows["seed"] == seeds.min()]
    weighted = rows.assign(total=rows["kept"] * rows["n"], wanted=rows["nominal"] * rows["n"])
    sums = weighted.groupby(["layer", "kv_head"])[["total", "wanted", "n"]].sum(min_count=1)
    means = sums[["wanted", "total"]].div(sums["n"], axis=0)
    nominal, kept = (means[name].unstack().to_numpy(float) for name in ("wanted", "total"))
    return nominal, kept


def _draw(panel: Axes, table: np.ndarray, norm: LogNorm) -> AxesImage:
    image = panel.imshow(table, cmap="viridis", norm=norm, aspect="auto", interpolation="nearest")
    panel.grid(False)
    panel.spines[:].set_visible(False)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=4, min_n_ticks=1))
    panel.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5, min_n_ticks=1))
    return image


def _name(method: str, rows: pd.DataFrame) -> str:
    """A method's label, broken where it is long; the seed where there are several."""
    label = method_style(method).label.replace(", ", ",\n").replace(" (", "\n(")
    seeds = rows["seed"].dropna()
    return f"{label}\nseed {int(seeds.min())}" if seeds.nunique() > 1 else label
