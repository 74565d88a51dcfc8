"""Paired differences between methods, prompts and ablations: on the same documents, at the same budget.

What SparseMM gains over equal budgets is split in two: what already the layers' mean scores give
(``sparsemm_layer_mean`` minus ``sparsemm_flat``), and what the heads' own scores add to that
(``sparsemm`` minus ``sparsemm_layer_mean``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsemm.evaluation.tables import IMAGE_QUESTION, QUESTION_AFTER, SETTINGS, Column, without_seed
from sparsemm.evaluation.uncertainty import clusters_of, ends, is_mean, resampled_means

METHODS = (
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

ABLATIONS = (("mask_visual", "mask_random"), ("mask_visual_uniform", "mask_random_uniform"))
"""Which ablations are, under the same method and fraction."""

COMPARISON_COLUMNS: dict[str, Column] = {
    "model": Column("text", "as in cells.csv"),
    "task": Column("text", "as in cells.csv"),
    "metric": Column("text", "as in cells.csv"),
    "compared": Column(
        "text",
        "the column in which the two differ: `method`, `prompt` or `ablation`; in all others they agree",
    ),
    "method": Column("text", "name of the method's configuration; seeds are averaged, document by document"),
    "prompt": Column("text", "as in cells.csv"),
    "ablation": Column("text", "as in cells.csv"),
    "fraction": Column("number", "as in cells.csv"),
    "reference": Column("text", "what stands in the column `compared` of the other"),
    "budget": Column(
        "number",
        "as in cells.csv; empty also for the mean over the budgets at which both evicted from every document",
    ),
    "difference": Column("number", "mean score minus that of the reference, on the same documents"),
    "ci_low": Column("number", "lower end of the 95% confidence interval of `difference` (paired)"),
    "ci_high": Column("number", "upper end of the 95% confidence interval of `difference` (paired)"),
    "n": Column("integer", "documents"),
    "budgets": Column(
        "integer", "over how many budgets the mean is taken; 1 where `budget` is given; 0: FullKV has none"
    ),
}
"""Columns of ``comparisons.csv``."""


class Arm(NamedTuple):
    """What a line of a figure is: cells that differ in budget and seed alone."""

    method: str
    prompt: str
    ablation: str | None
    fraction: float | None


@dataclass
class _Scores:
    """An arm's scores.

    Attributes
    ----------
    means
        By budget (None: FullKV's), each document's, mean over seeds.
    evicting
        Budgets at which every document lost entries.
    """

    means: dict[float | None, NDArray[np.float64]]
    evicting: set[float | None]


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
        Pair after pair, in them budgets, the mean over budgets last. Left out are cells whose score is no
        mean over documents, what would average cells that differ in more than their seed (another kernel,
        another mode of an ablation), and everything where all documents share one image.
    """
    usable = [cell for cell in cells if is_mean(cell)]
    if not usable:
        return []
    clusters = clusters_of(usable[0], full)
    if max(clusters) < 1:
        return []
    arms = _by_arm(usable)
    found: list[dict[str, Any]] = []
    differences: list[NDArray[np.float64]] = []
    head = {name: usable[0]["row"].get(name) for name in ("model", "task", "metric")}
    for column, arm, reference in _pairs(arms):
        pair = {**head, "compared": column, **arm._asdict(), "reference": getattr(reference, column)}
        for budget, count, gap in _gaps(arms[arm], arms[reference]):
            found.append({**pair, "budget": budget, "budgets": count, "n": len(gap)})
            differences.append(gap)
    if not found:
        return []
    for row, gap, drawn in zip(found, differences, resampled_means(differences, clusters), strict=True):
        row["difference"] = round(float(gap.mean()), 12)
        row["ci_low"], row["ci_high"] = ends(drawn)
    return found


def _by_arm(cells: Sequence[Mapping[str, Any]]) -> dict[Arm, _Scores]:
    groups: dict[Arm, dict[float | None, list[Mapping[str, Any]]]] = {}
    settings: dict[Arm, set[tuple[str, ...]]] = {}
    for cell in cells:
        row = cell["row"]
        arm = Arm(row["method"], row["prompt"], row.get("ablation"), row.get("fraction"))
        groups.setdefault(arm, {}).setdefault(row["budget"], []).append(cell)
        settings.setdefault(arm, set()).add(tuple(without_seed(row.get(name)) for name in SETTINGS))
    return {
        arm: _Scores(
            means={
                budget: np.mean([cell["samples"]["score"] for cell in seeds], axis=0)
                for budget, seeds in by_budget.items()
            },
            evicting={
                budget
                for budget, seeds in by_budget.items()
                if budget is not None and all(cell["row"].get("n_uncompressed") == 0 for cell in seeds)
            },
        )
        for arm, by_budget in groups.items()
        if len(settings[arm]) == 1
    }


def _pairs(arms: Collection[Arm]) -> Iterator[tuple[str, Arm, Arm]]:
    """Arms that are compared, and the column in which they differ."""
    named = [("method", *pair) for pair in METHODS]
    named += [("prompt", QUESTION_AFTER, IMAGE_QUESTION)]
    named += [("ablation", *pair) for pair in ABLATIONS]
    for column, value, reference in named:
        for arm in arms:
            other = arm._replace(**{column: reference})
            if getattr(arm, column) == value and other in arms:
                yield column, arm, other


def _gaps(arm: _Scores, reference: _Scores) -> Iterator[tuple[float | None, int, NDArray[np.float64]]]:
    """Differences of every document: budget, over how many budgets, and they; the mean over budgets last."""
    gaps = {
        budget: mean - reference.means[budget]
        for budget, mean in arm.means.items()
        if budget in reference.means
    }
    if None in gaps:
        yield None, 0, gaps.pop(None)
    for budget in sorted(gaps, key=lambda budget: budget or 0):
        yield budget, 1, gaps[budget]
    both = [budget for budget in gaps if budget in arm.evicting and budget in reference.evicting]
    if both:
        yield None, len(both), np.mean([gaps[budget] for budget in both], axis=0)
