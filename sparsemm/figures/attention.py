"""Attention laid over the picture: what a head looks at while an answer is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from sparsemm.figures.style import FULL_WIDTH, RC

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sparsemm.heads.attention import AttentionMaps

VERMILION = "#D55E00"


@mpl.rc_context(RC)
def attention_on_image(
    attention: AttentionMaps,
    rows: Mapping[str, Sequence[str]] | None = None,
    *,
    tokens: Sequence[int] | None = None,
    width: float = FULL_WIDTH,
) -> Figure:
    """Lay heads' attention over the picture, heads side by side (as arXiv 2506.05344 shows visual heads).

    The stronger the colour, the more of the head's attention the place got, over the most that any place of
    that panel got; the percentage above says how much of its attention the head gave to the image at all.

    Parameters
    ----------
    attention : AttentionMaps
        Of `sparsemm.heads.attention.attention_maps`.
    rows : mapping of str to sequence of str, optional
        Rows of panels: what is written beside them, and their heads. Default: one row of all heads.
    tokens : sequence of int, optional
        Which generated tokens, by number; their mean is drawn. Default: all.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.

    Raises
    ------
    ValueError
        A head or token that `attention` does not have.
    """
    rows = {"": attention.heads} if rows is None else rows
    if unknown := [head for heads in rows.values() for head in heads if head not in attention.heads]:
        raise ValueError(f"no attention of head {unknown[0]}; there is that of {', '.join(attention.heads)}")
    chosen = list(range(len(attention.tokens)) if tokens is None else tokens)
    if not chosen or not all(0 <= token < len(attention.tokens) for token in chosen):
        raise ValueError(f"tokens must be from 0 to {len(attention.tokens) - 1}, got {chosen}")
    mean = attention.maps[chosen].mean(dim=0).numpy()
    columns = max(map(len, rows.values()))
    panel = width / columns
    tall = panel * attention.image.height / attention.image.width + 0.25
    figure = Figure(figsize=(width, len(rows) * tall + 0.35), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, (label, heads) in zip(panels, rows.items(), strict=True):
        line[0].set_ylabel(label)
        for axes in line[len(heads) :]:
            axes.set_axis_off()
        for axes, head in zip(line, heads, strict=False):
            _lay(axes, attention, mean[attention.heads.index(head)], head)
    answer = attention.answer if tokens is None else "".join(attention.tokens[token] for token in chosen)
    asked = shorten(" ".join(attention.question.split()), 70, placeholder=" …")
    figure.suptitle(f"{asked}  →  {shorten(' '.join(answer.split()), 70, placeholder=' …')}", fontsize=8)
    return figure


def _lay(axes: Axes, attention: AttentionMaps, weights: np.ndarray, head: str) -> None:
    """One head's weights [rows, columns] over the picture."""
    image = attention.image
    axes.imshow(image.convert("L"), cmap="gray", vmin=0, vmax=255)
    axes.imshow(
        np.ones_like(weights),
        cmap=ListedColormap([VERMILION]),
        alpha=0.85 * weights / max(weights.max(), np.finfo(float).tiny),
        extent=(0, image.width, image.height, 0),
        interpolation="nearest",
    )
    axes.set_title(f"{head}: {weights.sum():.0%}", fontsize=7)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
