"""Latency and memory of decoding against context, beside the paper's published points."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from sparsemm.figures.style import (
    FULL_WIDTH,
    NARROW,
    RC,
    legend_columns,
    legend_order,
    method_style,
    published_mark,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PUBLISHED_TOKENS = 32768

PUBLISHED_MS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "llava_next_vicuna_7b": {"fullkv": 70.9, "sparsemm": 37.9},
        "llava_next_mistral_7b": {"fullkv": 76.0, "sparsemm": 45.2},
        "qwen2_vl_7b": {"fullkv": 59.2, "sparsemm": 37.2},
    }
)
"""Milliseconds of a decode step at 32K as SparseMM's authors published them (arXiv 2506.05344)."""

PUBLISHED_GB: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {"llava_next_vicuna_7b": {"fullkv": 32.87, "sparsemm": 17.38}}
)
"""Peak memory at 32K, GB, from the same paper."""

PANEL = ("shape", "layers", "layers_of", "dtype")
"""Rows that agree in these share a panel."""


FORM = ["cache", "decoding", "backend"]
"""Columns that say in which way a method was measured."""

RAGGED = "ragged"
STOCK: dict[str, Any] = {"linestyle": ":", "label": "FullKV, transformers' cache"}


def decode_figures(table: pd.DataFrame, *, width: float = FULL_WIDTH) -> dict[str, Figure]:
    """Draw every figure of a ``decode.csv``: one for each device and budget, by name.

    Batches are left out but for the smallest, and models that were measured at one prompt length alone. On
    a GPU models with all of their layers have figures of their own, ``decode_<device>_<budget>``; models that
    were cut are drawn apart, ``decode_cut_…``.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of ``decode.csv``.
    width : float, default=6.9
        Width of the figures in inches.
    """
    table = table[table["failed"].isna() & (table["batch_size"] == table["batch_size"].min())]
    figures = {}
    for device, rows in table.groupby("device", sort=True):
        whole = rows["layers"] == rows["layers_of"]
        for cut, part in ((False, rows[whole]), (True, rows[~whole])):
            for budget in sorted(part["budget"].dropna().unique()):
                name = re.sub(r"\W+", "_", f"{device}").strip("_").lower()
                name = f"decode{'_cut' * cut}_{name}_{budget:g}"
                own = part[part["budget"] == budget]
                own = own[own.groupby(list(PANEL))["prompt_tokens"].transform("nunique") > 1]
                if own.empty:
                    continue
                # FullKV's of the same shapes and lengths: others were measured with another budget.
                keys = [*PANEL, "prompt_tokens"]
                beside = part[part["budget"].isna()].merge(own[keys].drop_duplicates(), on=keys)
                chosen = pd.concat([beside, own])
                figures[name] = decode_vs_context(chosen, published=not cut and device != "cpu", width=width)
    return figures


@mpl.rc_context(RC)
def decode_vs_context(rows: pd.DataFrame, *, published: bool, width: float = FULL_WIDTH) -> Figure:
    """Draw milliseconds a token (above) and memory (below) against prompt tokens: models side by side.

    Where a method was measured in several ways (caches, kinds of decode steps, backends) one of them is drawn
    over all lengths: of those measured at the most lengths, the fastest at the longest prompt. Where that is
    FullKV in our cache, the same of FullKV in transformers' own caches stands beside it.

    Parameters
    ----------
    rows : pandas.DataFrame
        Rows of ``decode.csv`` of one device, FullKV's and those of one budget.
    published : bool
        Whether these are whole models on a GPU. Then memory is the peak with the weights, and the paper's
        published points stand beside the lines. Else it is what the cache allocates, and titles say how many
        layers were run.
    width : float, default=6.9
        Width of the figure in inches.
    """
    panels = list(rows.groupby(list(PANEL), sort=False))
    narrow = width < NARROW
    height = 1.9 * len(panels) + 0.7 if narrow else 4.0
    figure = Figure(figsize=(width, height), layout="constrained")
    shape = (len(panels), 2) if narrow else (2, len(panels))
    grid = figure.subplots(*shape, squeeze=False, sharex=False if narrow else "col")
    axes = grid.T if narrow else grid
    for column, (_, part) in enumerate(panels):
        _panel(axes[0][column], axes[1][column], part, published)
    for first in range(len(panels)) if narrow else [0]:
        axes[0][first].set_ylabel("decode (ms/token)")
        axes[1][first].set_ylabel("peak with weights (GB)" if published else "KV allocated (MB)")
    for axis in grid[-1]:
        axis.set_xlabel("prompt tokens")
    budget = rows["budget"].dropna().iloc[0]
    weights = "random weights" if (rows["weights"] == "random").all() else "random or trained weights"
    weights = "trained weights" if (rows["weights"] != "random").all() else weights
    row = rows.iloc[0]
    between = "\n" if narrow else ", "
    title = f"budget {budget:g}, batch {row['batch_size']}, {weights}{between}{row['device']}"
    figure.suptitle(title, fontsize=mpl.rcParams["axes.titlesize"])
    handles = [
        Line2D([], [], **method_style(name).line())
        for name in sorted(rows["method"].unique(), key=legend_order)
    ]
    if any(line.get_label() == STOCK["label"] for axis in axes[0] for line in axis.lines):
        handles.insert(1, Line2D([], [], **(method_style("fullkv").line() | STOCK)))
    if published:
        handles += [
            Line2D([], [], **published_mark(style.color), label=f"published, {style.label}")
            for style in map(method_style, ("fullkv", "sparsemm"))
        ]
    labels = [str(handle.get_label()) for handle in handles]
    columns = legend_columns(labels, width)
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    return figure


def _panel(latency: Axes, memory: Axes, rows: pd.DataFrame, published: bool) -> None:
    first = rows.iloc[0]
    shape, layers, of = first["shape"], int(first["layers"]), int(first["layers_of"])
    count = "" if layers == of else f"\n{layers} of {of} layers"
    latency.set_title(f"{shape}{count}\n{first['dtype']}", fontsize=7)
    for name in sorted(rows["method"].unique(), key=legend_order):
        mine = rows[rows["method"] == name]
        best = _one_form(mine)
        line: dict[str, Any] = method_style(name).line() | {"marker": method_style(name).marker or "."}
        if stock := _stock_beside(mine, best):
            theirs = line | STOCK
            latency.plot(stock[0], stock[1], **theirs)
        latency.plot(best["prompt_tokens"], best["decode_ms"], **line)
        latency.fill_between(
            best["prompt_tokens"], best["decode_ms_q1"], best["decode_ms_q3"],
            color=line["color"], alpha=0.15, linewidth=0,
        )  # fmt: skip
        memory.plot(best["prompt_tokens"], _memory(best, published), **line)
    if published:
        for axis, points in ((latency, PUBLISHED_MS), (memory, PUBLISHED_GB)):
            for name, value in points.get(shape, {}).items():
                axis.plot([PUBLISHED_TOKENS], [value], **published_mark(method_style(name).color))
    lengths = sorted(rows["prompt_tokens"].unique())
    for axis in (latency, memory):
        axis.set_xscale("log", base=2)
        axis.set_xticks(lengths)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(_tokens))
        axis.set_ylim(0, 1.05 * axis.get_ylim()[1])
        axis.margins(x=0.12)
        if len(lengths) > 5:
            axis.tick_params(axis="x", rotation=45)


def _one_form(rows: pd.DataFrame) -> pd.DataFrame:
    """A method's rows of one form, by length: of those with the most lengths the fastest at the longest."""
    rows = rows.sort_values(["prompt_tokens", "decode_ms"], kind="stable")
    forms = [form for _, form in rows.groupby(FORM, sort=False, dropna=False)]
    most = max(form["prompt_tokens"].nunique() for form in forms)
    whole = [form for form in forms if form["prompt_tokens"].nunique() == most]
    best = min(whole, key=lambda form: form["decode_ms"].iloc[-1])
    return best.drop_duplicates("prompt_tokens")


def _stock_beside(rows: pd.DataFrame, best: pd.DataFrame) -> tuple[pd.Series, pd.Series] | None:
    """Lengths and times of FullKV in transformers' caches; None where those are drawn, or there are none."""
    stock = rows[rows["cache"] != RAGGED]
    if stock.empty or (best["cache"] != RAGGED).all():
        return None
    form = _one_form(stock)
    return form["prompt_tokens"], form["decode_ms"]


def _memory(rows: pd.DataFrame, published: bool) -> pd.Series:
    if not published:
        return rows["kv_bytes"] / 1e6
    peaks = rows[["peak_prefill_bytes", "peak_decode_bytes"]].max(axis=1)
    return (rows["weight_bytes"] + peaks) / 1e9


def _tokens(value: float, _position: int | None) -> str:
    return f"{value / 1024:g}K" if value >= 1024 and value % 1024 == 0 else f"{value:g}"
