"""Head scores: which query heads of a model see."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sparsemm.figures.style import COLUMN_WIDTH, RC
from sparsemm.heads import HeadScores

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


@mpl.rc_context(RC)
def head_scores(
    scores: ArrayLike | HeadScores | Path, *, title: str = "", top: float = 0.05, width: float = COLUMN_WIDTH
) -> Figure:
    """Draw head scores as a heatmap: layers as rows (the first at the top), query heads as columns.

    Colour is a head's share of the sum over all heads, in percent. The best heads are ringed, and the line
    below the map says what share of the total they hold (the paper: about 5% of the heads do most of the
    seeing).

    Parameters
    ----------
    scores : array_like, HeadScores or path
        Non-negative head scores, [layers, query heads], in any unit; or a file of head scores.
    title : str, default=""
        Above the map; the model's name, for example.
    top : float, default=0.05
        Share of all heads to ring, at least one head; 0 rings none.
    width : float, default=3.35
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.

    Raises
    ------
    ValueError
        If the scores are no table of finite, non-negative numbers with a positive sum, or `top` is no share.
    """
    if isinstance(scores, str | Path | HeadScores):
        scores = HeadScores.of(scores).scores
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.size == 0:
        raise ValueError(f"head scores must be a table [layers, query heads], got the shape {table.shape}")
    if not np.isfinite(table).all() or (table < 0).any() or table.sum() <= 0:
        raise ValueError("head scores must be finite and non-negative, with a positive sum")
    if not 0 <= top <= 1:
        raise ValueError(f"top must be a share of the heads in [0, 1], got {top}")
    layers, heads = table.shape
    share = 100 * table / table.sum()
    map_width = width - 1.1
    figure = Figure(figsize=(width, max(map_width * layers / heads, 1.0) + 0.9), layout="compressed")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="viridis", vmin=0, aspect="equal", interpolation="nearest")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
    axes.set_xlabel("query head")
    axes.set_ylabel("layer")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label="share of the score (%)", fraction=0.05, pad=0.02)
    if top:
        count = max(1, round(top * table.size))
        best = np.argsort(-table, axis=None, kind="stable")[:count]
        rows, columns = np.unravel_index(best, table.shape)
        cell = 72 * map_width / max(heads, layers)  # points
        axes.scatter(
            columns, rows, s=(0.6 * cell) ** 2, facecolors="none", edgecolors="#D55E00", linewidths=1.0
        )
        held = share[rows, columns].sum()
        noun = "head" if count == 1 else "heads"
        figure.supxlabel(
            f"ringed: the best {count} {noun} of {table.size}, {held:.0f}% of the score", fontsize=7
        )
    return figure
