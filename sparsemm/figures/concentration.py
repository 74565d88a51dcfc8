"""How concentrated head scores are, and how many documents it takes to order the heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from sparsemm.figures.style import FULL_WIDTH, NARROW, RC

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_BLUE, _VERMILION = "#0072B2", "#D55E00"


@mpl.rc_context(RC)
def head_concentration(
    top_share: pd.DataFrame, rank_agreement: pd.DataFrame, *, title: str = "", width: float = FULL_WIDTH
) -> Figure:
    """Draw the share of the score that the best heads hold, and how well a few images order the heads.

    Of scores of fewer than two images the second is left out.

    Parameters
    ----------
    top_share, rank_agreement : pandas.DataFrame
        As `sparsemm.heads.concentration` makes them, or as read from the files beside the scores.
    title : str, default=""
        Above the figure; the model's name, for example.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.
    """
    narrow = width < NARROW
    figure = Figure(figsize=(width, 4.6 if narrow else 2.6), layout="constrained")
    left, right = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
    share = 100 * top_share
    left.plot([0, 100], [0, 100], color="0.6", linestyle=":", label="all heads equal")
    left.fill_between(
        share["heads_share"], share["ci_low"], share["ci_high"], color=_VERMILION, alpha=0.2, linewidth=0
    )
    left.plot(share["heads_share"], share["score_share"], color=_VERMILION, label="measured, 95% interval")
    left.set_xlim(0, 100)
    left.set_ylim(0, 102)
    left.set_xlabel("best heads (% of all query heads)")
    left.set_ylabel("share of the score (%)")
    left.legend(loc="lower right")
    if rank_agreement.empty:
        right.set_axis_off()
    else:
        _draw_agreement(right, rank_agreement)
    figure.suptitle(title, fontsize=mpl.rcParams["axes.titlesize"])
    return figure


def _draw_agreement(panel: Axes, rank_agreement: pd.DataFrame) -> None:
    """Rank correlation against the number of documents."""
    for against, color, marker, label in (
        ("all", _BLUE, "o", "against all documents"),
        ("others", _VERMILION, "D", "against the other documents"),
    ):
        rows = rank_agreement[rank_agreement["against"] == against]
        panel.fill_between(rows["images"], rows["low"], rows["high"], color=color, alpha=0.15, linewidth=0)
        panel.plot(rows["images"], rows["rank_correlation"], color=color, marker=marker, label=label)
    panel.set_xscale("log")
    panel.set_xticks(sorted(rank_agreement["images"].unique()))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_ylim(top=1.0)
    panel.set_xlabel("documents")
    panel.set_ylabel("rank correlation of head scores")
    panel.legend(loc="lower right")
