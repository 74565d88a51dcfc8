"""Confidence intervals of scores, and of differences to FullKV, by a bootstrap over documents."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 4000
LEVEL = 95.0
"""Per cent of the bootstrap's means that lie inside an interval (percentile method)."""


@lru_cache(maxsize=4)
def weights(n: int) -> NDArray[np.float64]:
    """[RESAMPLES, n] weights that sum to 1: how often each document is drawn, over n.

    The same for every cell, so that a cell and FullKV are resampled together: differences are paired.
    """
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the interval of the mean of one value per document."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(weights(len(values)) @ np.asarray(values, dtype=np.float64), (tail, 100 - tail))
    return round(float(low), 6), round(float(high), 6)


def intervals(cell: Mapping[str, Any], full: Mapping[str, Any] | None) -> dict[str, float]:
    """The columns ``ci_*`` and ``diff_ci_*`` of a cell; `full` is FullKV's cell on the same documents.

    Empty for metrics that are no mean of the documents' own scores.
    """
    scores = cell["samples"]["score"]
    if None in scores or not math.isclose(
        math.fsum(scores) / len(scores), cell["row"]["score"], abs_tol=1e-9
    ):
        return {}
    low, high = interval(scores)
    columns = {"ci_low": low, "ci_high": high}
    if full is not None:
        pairs = zip(scores, full["samples"]["score"], strict=True)
        columns["diff_ci_low"], columns["diff_ci_high"] = interval([ours - theirs for ours, theirs in pairs])
    return columns
