"""Paired differences between methods: on the same documents, at the same budget, with intervals.

What SparseMM gains over equal budgets is split in two: what already the layers' mean scores give
(``sparsemm_layer_mean`` minus ``sparsemm_flat``), and what the heads' own scores add to that
(``sparsemm`` minus ``sparsemm_layer_mean``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsemm.evaluation.tables import Column
from sparsemm.evaluation.uncertainty import clusters_of, ends, is_mean, resampled_means

PAIRS = (
    ("sparsemm", "sparsemm_flat"),
    ("sparsemm_layer_mean", "sparsemm_flat"),
    ("sparsemm", "sparsemm_layer_mean"),
    ("sparsemm", "sparsemm_shuffled"),
    ("sparsemm", "snapkv"),
    ("sparsemm", "adakv"),
    ("sparsemm", "pyramidkv"),
    ("sparsemm", "random"),
    ("snapkv", "streaming_llm"),
)
"""Which methods are compared, the first minus the second; pairs that a sweep lacks are left out."""

COMPARISON_COLUMNS: dict[str, Column] = {
    "model": Column("text", "as in cells.csv"),
    "task": Column("text", "as in cells.csv"),
    "metric": Column("text", "as in cells.csv"),
    "method": Column(
        "text", "name of the method's configuration; its seeds are averaged, document by document"
    ),
    "reference": Column("text", "the method that it is compared with, likewise"),
    "budget": Column(
        "number",
        "as in cells.csv; empty: the mean over the budgets at which both evicted from every document",
    ),
    "difference": Column("number", "mean score of `method` minus that of `reference`, on the same documents"),
    "ci_low": Column("number", "lower end of the 95% confidence interval of `difference` (paired)"),
    "ci_high": Column("number", "upper end of the 95% confidence interval of `difference` (paired)"),
    "n": Column("integer", "documents"),
    "budgets": Column("integer", "over how many budgets the mean is taken; 1 where `budget` is given"),
}
"""Columns of ``comparisons.csv``."""

Scores = dict[tuple[str, float], NDArray[np.float64]]


def comparisons(cells: Sequence[Mapping[str, Any]], full: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Rows of ``comparisons.csv`` for the cells of one model and task.

    Parameters
    ----------
    cells : sequence of cells
        As in their files, on the same documents.
    full : cell or None
        FullKV's: its images say which documents belong together, as for ``cells.csv``.

    Returns
    -------
    list of dict
        Pairs in the order of `PAIRS`, in them budgets, the mean over budgets last. Cells whose score is no
        mean over documents are left out, and so is everything where all documents share one image.
    """
    usable = [cell for cell in cells if cell["row"]["budget"] is not None and is_mean(cell)]
    if not usable:
        return []
    clusters = clusters_of(usable[0], full)
    if max(clusters) < 1:
        return []
    scores, evicting = _by_method(usable)
    found: list[dict[str, Any]] = []
    differences: list[NDArray[np.float64]] = []
    for method, reference in PAIRS:
        shared = sorted(b for name, b in scores if name == method and (reference, b) in scores)
        gaps = {budget: scores[method, budget] - scores[reference, budget] for budget in shared}
        both = [b for b in shared if (method, b) in evicting and (reference, b) in evicting]
        named: list[tuple[float | None, int, NDArray[np.float64]]] = [(b, 1, gap) for b, gap in gaps.items()]
        if both:
            named.append((None, len(both), np.mean([gaps[budget] for budget in both], axis=0)))
        for budget, count, gap in named:
            head = {name: usable[0]["row"].get(name) for name in ("model", "task", "metric")}
            pair = {"method": method, "reference": reference, "budget": budget, "budgets": count}
            found.append({**head, **pair, "n": len(gap)})
            differences.append(gap)
    if not found:
        return []
    for row, gap, drawn in zip(found, differences, resampled_means(differences, clusters), strict=True):
        row["difference"] = round(float(gap.mean()), 12)
        row["ci_low"], row["ci_high"] = ends(drawn)
    return found


def _by_method(cells: Sequence[Mapping[str, Any]]) -> tuple[Scores, set[tuple[str, float]]]:
    """Each document's score by method and budget, mean over seeds; and where every document lost entries."""
    rows: dict[tuple[str, float], list[list[float]]] = {}
    untouched: set[tuple[str, float]] = set()
    for cell in cells:
        key = (cell["row"]["method"], cell["row"]["budget"])
        rows.setdefault(key, []).append(cell["samples"]["score"])
        if cell["row"].get("n_uncompressed") != 0:
            untouched.add(key)
    return {key: np.mean(scores, axis=0) for key, scores in rows.items()}, rows.keys() - untouched
