"""Ours against the paper's: how far scores are from the published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

from sparsemm.figures.panels import (
    budget_label,
    budgets_of,
    draw_line,
    drawable,
    empty_panels,
    label_budgets,
)
from sparsemm.figures.published import KEYS, SOURCE, published_scores
from sparsemm.figures.style import FULL_WIDTH, RC

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def reproduction_deltas(cells: pd.DataFrame) -> pd.DataFrame:
    """Our scores minus the published ones, where both exist.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv``.

    Returns
    -------
    pandas.DataFrame
        The rows of `cells` with a published counterpart (same model, task, metric, method and budget), with
        two columns more: ``published``, and ``delta`` = ``score`` - ``published``, in the metric's unit.
    """
    paper = published_scores().rename(columns={"score": "published"})
    joined = cells.astype({"budget": float}).merge(paper, on=KEYS)
    return joined.assign(delta=joined["score"] - joined["published"])


@mpl.rc_context(RC)
def reproduction_delta(cells: pd.DataFrame, *, width: float = FULL_WIDTH) -> Figure:
    """Draw our score minus the published one against budget: models as rows, tasks as columns.

    Bands are the 95% intervals of our scores alone: the published ones come without any. Above zero ours are
    higher.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv``.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.

    Raises
    ------
    ValueError
        If no row has a published counterpart, or rows of one line differ in more than their seed.
    """
    rows = reproduction_deltas(drawable(cells, "reproduction_delta"))
    if rows.empty:
        raise ValueError("no published score is of these models, tasks, metrics, methods and budgets")
    for name in ("ci_low", "ci_high"):
        if name in rows:
            rows[name] = rows[name] - rows["published"]
    rows["score"] = rows["delta"]
    panels, budgets = empty_panels(rows, width=width), budgets_of(rows)
    handles = {method: draw_line(panel, method, own, "budget") for panel, method, own in panels.lines()}
    for panel in panels.axes.values():
        panel.axhline(0, color="0.4", linewidth=0.8, zorder=1)
        label_budgets(panel, budgets, inches=panels.inches)
    panels.figure.supylabel(f"ours minus {SOURCE}", fontsize=mpl.rcParams["axes.labelsize"])
    panels.label(handles, budget_label(budgets))
    return panels.figure
