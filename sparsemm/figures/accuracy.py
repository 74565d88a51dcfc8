"""Accuracy against budget, nominal and realised: what a method's memory costs in score."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.lines import Line2D

from sparsemm.figures.panels import (
    budget_label,
    budgets_of,
    draw_level,
    draw_line,
    drawable,
    empty_panels,
    label_budgets,
    label_powers,
)
from sparsemm.figures.published import SOURCE
from sparsemm.figures.style import FULL_WIDTH, RC, method_style, published_mark

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PUBLISHED = f"published ({SOURCE})"


@mpl.rc_context(RC)
def accuracy_vs_budget(
    cells: pd.DataFrame, *, published: pd.DataFrame | None = None, width: float = FULL_WIDTH
) -> Figure:
    """Draw score against nominal budget: models as rows, tasks as columns, methods as lines.

    The budget axis is logarithmic (base 2) and descends, as in the paper (arXiv 2506.05344): compression
    grows to the right. A method without a budget (FullKV) is a dashed horizontal line. Seeds of a method are
    averaged. Confidence bands are drawn where ``ci_low`` and ``ci_high`` are filled and a point is one row.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv`` (`sparsemm.load_results`); the columns in `panels.COLUMNS` are needed.
    published : pandas.DataFrame, optional
        Scores of the same models, tasks, metrics and methods to mark by stars, as `published_for` gives
        them; those at budgets beyond the axis are left out.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.

    Raises
    ------
    ValueError
        If columns are missing, no row has a score, budgets mix token counts and shares of the prompt, rows
        of one line differ in more than their seed, or no published score can be shown.
    """
    cells = drawable(cells, "accuracy_vs_budget")
    budgets = budgets_of(cells)
    marks = _within(published, budgets)
    panels = empty_panels(cells, width=width, more=[] if marks is None else [PUBLISHED])
    handles, more = {}, {}
    for panel, method, rows in panels.lines():
        if rows["budget"].isna().all():
            handles[method] = draw_level(panel, method, rows)
            continue
        handles[method] = draw_line(panel, method, rows, "budget")
        if marks is not None:
            own = marks.merge(rows[["model", "task", "metric", "method"]].drop_duplicates())
            panel.plot(own["budget"], own["score"], **published_mark(method_style(method).color))
    for panel in panels.axes.values():
        label_budgets(panel, budgets, inches=panels.inches)
    if marks is not None:
        more = {"published": Line2D([], [], label=PUBLISHED, **published_mark("0.3"))}
    panels.label(handles, budget_label(budgets) if budgets else "", **more)
    return panels.figure


@mpl.rc_context(RC)
def accuracy_vs_realised_budget(cells: pd.DataFrame, *, width: float = FULL_WIDTH) -> Figure:
    """Draw score against the entries that were really kept: where a method keeps more or fewer than nominal.

    As `accuracy_vs_budget`, but a point stands at ``realised_budget``, measured, mean over documents and
    seeds. Methods whose lines shift against that figure did not keep their nominal budgets: the released
    code's roundings, quotas above the prompt that were lost, or prompts shorter than the budget.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv``; the columns in `panels.COLUMNS` and ``realised_budget`` are needed.
    width : float, default=6.9
        Width of the figure in inches.

    Returns
    -------
    matplotlib.figure.Figure
        Not registered with pyplot: nothing to close.

    Raises
    ------
    ValueError
        As `accuracy_vs_budget`; also if no row with a budget has a realised one.
    """
    cells = drawable(cells, "accuracy_vs_realised_budget", ["realised_budget"])
    cells = cells[cells["budget"].isna() | cells["realised_budget"].notna()]
    kept = cells.loc[cells["budget"].notna(), "realised_budget"].to_numpy(float)
    if not len(kept):
        raise ValueError("no row with a budget has a realised one")
    panels = empty_panels(cells, width=width)
    handles = {}
    for panel, method, rows in panels.lines():
        full = rows["budget"].isna().all()
        handles[method] = (
            draw_level(panel, method, rows) if full else draw_line(panel, method, rows, "realised_budget")
        )
    for panel in panels.axes.values():
        label_powers(panel, kept, inches=panels.inches, descending=True)
    panels.label(handles, "realised budget (KV entries per layer and head, measured)")
    return panels.figure


def _within(published: pd.DataFrame | None, budgets: list[float]) -> pd.DataFrame | None:
    """The published scores at budgets that the axis reaches."""
    if published is None:
        return None
    shown = published[published["budget"].between(min(budgets, default=0), max(budgets, default=0))]
    if shown.empty:
        raise ValueError("no published score is of these models, tasks, metrics, methods and budgets")
    return shown
