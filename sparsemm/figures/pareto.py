"""Score against what a method costs: bytes of the cache, or milliseconds of a decode step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sparsemm.figures.panels import draw_level, drawable, empty_panels, label_powers
from sparsemm.figures.style import FULL_WIDTH, RC, method_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FRONT = "no other is better and cheaper"
_FRONT_STYLE = {"color": "0.75", "linewidth": 3.0, "solid_capstyle": "round", "zorder": 1}


class Latency(NamedTuple):
    """Cells with the decode times of one setting.

    Attributes
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv`` with the columns ``decode_ms``, ``decode_ms_q1``, ``decode_ms_q3``; those
        without a time are left out.
    device : str
    batch_size : int
    prompt_tokens : dict of str to int
        Of each model: the measured length nearest to the cells' own prompts.
    untimed : list of str
        Methods of which no row was measured.
    """

    cells: pd.DataFrame
    device: str
    batch_size: int
    prompt_tokens: dict[str, int]
    untimed: list[str]


@mpl.rc_context(RC)
def score_vs_memory(cells: pd.DataFrame, *, width: float = FULL_WIDTH) -> Figure:
    """Draw score against bytes of the KV cache: models as rows, tasks as columns, budgets along the lines.

    Bytes are ``kv_bytes`` of ``cells.csv``: K and V of one document when its text is done, generated tokens
    included. Bars are 95% intervals over the documents where a point is one row. The grey line joins the
    points that no other beats; better is above and to the left.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv``; the columns in `panels.COLUMNS` and ``kv_bytes`` are needed.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.

    Raises
    ------
    ValueError
        As `accuracy_vs_budget`; also if no row has bytes.
    """
    cells = drawable(cells, "score_vs_memory", ["kv_bytes"]).dropna(subset=["kv_bytes"])
    if cells.empty:
        raise ValueError("no row has kv_bytes")
    size, unit = (1e9, "GB") if cells["kv_bytes"].max() >= 1e9 else (1e6, "MB")
    shown = cells.assign(cost=cells["kv_bytes"] / size)
    figure, axes, inches = _draw(shown, width, f"KV cache of a document, its text included ({unit})")
    for panel in axes:
        label_powers(panel, shown["cost"].to_numpy(float), inches=inches, descending=False)
    return figure


@mpl.rc_context(RC)
def score_vs_latency(latency: Latency, *, width: float = FULL_WIDTH) -> Figure:
    """Draw score against milliseconds of a decode step; else as `score_vs_memory`.

    Scores are a sweep's, times those of ``sparsemm efficiency decode`` for the same model, method and budget,
    with quartiles as bars: no time is taken from a sweep, whose cells are decoded together.

    Parameters
    ----------
    latency : Latency
        One of `latencies`.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.
    """
    cells = drawable(latency.cells, "score_vs_latency", ["decode_ms"])
    rows = "one prompt" if latency.batch_size == 1 else f"{latency.batch_size} prompts"
    lengths = " and ".join(f"{count:,}" for count in dict.fromkeys(latency.prompt_tokens.values()))
    label = f"decode (ms/token; {rows} of {lengths} tokens on {latency.device})"
    figure, axes, _ = _draw(cells.assign(cost=cells["decode_ms"]), width, label)
    low, high = cells["decode_ms"].min(), cells["decode_ms"].max()
    for panel in axes:
        panel.set_xlim(low - 0.1 * (high - low), high + 0.1 * (high - low))  # quartiles may lie far outside
        panel.xaxis.set_major_locator(MaxNLocator(nbins=5))
    return figure


def latencies(cells: pd.DataFrame, decode: pd.DataFrame) -> Iterator[Latency]:
    """Join cells with decode times, once for each device and batch size that was measured.

    Of a model the rows count that ran all of its layers in the cells' dtype, at the prompt length nearest to
    the cells' own prompts (FullKV's realised budget); of several forms of a method (caches, compiled or not)
    the fastest. FullKV and two budgets must have been measured.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv``.
    decode : pandas.DataFrame
        Rows of ``decode.csv`` of ``sparsemm efficiency decode``.
    """
    measured = decode[decode["failed"].isna() & (decode["layers"] == decode["layers_of"])]
    measured = measured.rename(columns={"shape": "model"})
    measured = measured.merge(cells[["model", "dtype"]].astype(str).drop_duplicates())
    full = cells[(cells["method"] == "fullkv") & (cells["prompt"] == "image_question")]
    own = full.groupby("model")["realised_budget"].mean()
    measured = measured[measured["model"].isin(own.dropna().index)]
    keys = ["model", "method", "budget"]
    times = ["decode_ms", "decode_ms_q1", "decode_ms_q3"]
    for (device, batch), rows in measured.groupby(["device", "batch_size"]):
        nearest: dict[str, int] = {}
        for model, length in own.items():
            if lengths := sorted(set(rows.loc[rows["model"] == model, "prompt_tokens"])):
                nearest[str(model)] = int(min(lengths, key=lambda one, own=length: abs(np.log(one / own))))
        near = rows[rows["prompt_tokens"] == rows["model"].map(nearest)].sort_values("decode_ms")
        near = near.drop_duplicates(keys)[[*keys, *times]]
        # Empty budgets are equal to each other here, as FullKV's should be.
        joined = cells.astype({"budget": float}).merge(near.astype({"budget": float}), on=keys)
        if "fullkv" in set(joined["method"]) and joined["budget"].nunique() > 1:
            untimed = sorted(set(cells["method"]) - set(joined["method"]))
            yield Latency(joined, str(device), int(str(batch)), nearest, untimed)


def pareto_front(cost: NDArray[np.float64], score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices of the points that no other beats: that scores at least as much and costs no more.

    Parameters
    ----------
    cost, score : array [points]

    Returns
    -------
    array of int
        By rising cost; of equal points the first.
    """
    order = np.lexsort((-score, cost))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], score[order][:-1]]))
    return order[score[order] > best]


def _draw(cells: pd.DataFrame, width: float, label: str) -> tuple[Figure, list[Axes], float]:
    """All panels over the column ``cost``; returns the figure, the panels and the length of their axes."""
    panels = empty_panels(cells, width=width, more=[FRONT])
    handles = {}
    points: dict[Axes, list[NDArray[np.float64]]] = {}
    for panel, method, rows in panels.lines():
        style = method_style(method)
        if full := bool(rows["budget"].isna().all()):
            draw_level(panel, method, rows)
        groups = rows.fillna({"budget": 0.0}).groupby("budget")
        means = groups[["cost", "score"]].mean()
        cost, score = means["cost"].to_numpy(float), means["score"].to_numpy(float)
        line = {**style.line(), "marker": "o", "linestyle": "--"} if full else style.line()
        front = 4 if method == "sparsemm" else 3
        (handles[method],) = panel.plot(cost, score, **line, zorder=front)
        if groups.size().eq(1).all():
            _bars(panel, rows, style.color)
        points.setdefault(panel, []).append(np.stack([cost, score]))
    for panel, found in points.items():
        cost, score = np.concatenate(found, axis=1)
        chosen = pareto_front(cost, score)
        panel.plot(cost[chosen], score[chosen], **_FRONT_STYLE)
    panels.label(handles, label, front=Line2D([], [], label=FRONT, **_FRONT_STYLE))
    return panels.figure, list(panels.axes.values()), panels.inches


def _bars(panel: Axes, rows: pd.DataFrame, color: str) -> None:
    """Intervals of scores, and quartiles of times where there are any."""
    thin = {"color": color, "alpha": 0.35, "linewidth": 0.8, "zorder": 2}
    ends = rows.reindex(columns=["ci_low", "ci_high"]).to_numpy(float)
    if np.isfinite(ends).all():
        panel.vlines(rows["cost"], ends[:, 0], ends[:, 1], **thin)
    quartiles = rows.reindex(columns=["decode_ms_q1", "decode_ms_q3"]).to_numpy(float)
    if np.isfinite(quartiles).all():
        panel.hlines(rows["score"], quartiles[:, 0], quartiles[:, 1], **thin)
