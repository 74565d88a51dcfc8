"""How far two files of head scores agree on which heads see: the share of their top heads in common."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sparsemm.configs import InputError
from sparsemm.heads.scores import HeadScores

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Of all heads, how many are the top ones."""

RESAMPLES = 2000


def overlap(
    one: HeadScores | str | Path,
    other: HeadScores | str | Path,
    *,
    shares: Sequence[float] = SHARES,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> pd.DataFrame:
    """Share of the top heads of one file that are top heads of the other too.

    Parameters
    ----------
    one, other : HeadScores or path
        Of the same shape: layers, query heads.
    shares : sequence of float, default (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
        Of all heads; the top k are that share of them, rounded, at least one. Equal k give one row.
    resamples : int, default 2000
        Of the bootstrap over images, in each file that has several; the top heads are chosen anew in each.
        Resampled scores are noisier than the scores, so that where few images decide, the interval may lie
        below the share itself.
    seed : int, default 0

    Returns
    -------
    pandas.DataFrame
        A row for each k: ``heads`` (k), ``heads_share`` (k over all heads), ``common`` (heads in common),
        ``common_share`` (over k), ``chance`` (the share that random heads have in common: k over all heads),
        ``ci_low``, ``ci_high`` (95 %, percentile, of ``common_share``; NaN if neither has several images).

    Raises
    ------
    InputError
        The shapes differ, or a share is not in (0, 1].
    """
    one, other = HeadScores.of(one), HeadScores.of(other)
    if one.scores.shape != other.scores.shape:
        sizes = " and ".join("{} x {}".format(*scores.scores.shape) for scores in (one, other))
        raise InputError(f"these are not of one model: layers x query heads are {sizes}")
    if not all(0 < share <= 1 for share in shares):
        raise InputError(f"shares of the heads lie in (0, 1], got {list(shares)}")
    heads = one.scores.size
    counts = list(dict.fromkeys(max(1, round(share * heads)) for share in shares))
    rng = np.random.default_rng(seed)
    ranks = [_ranks(scores.scores.reshape(1, heads)) for scores in (one, other)]
    drawn = [_ranks(_resampled(scores, resamples, rng)) for scores in (one, other)]
    several = max(len(one.hits), len(other.hits)) > 1
    rows = []
    for k in counts:
        common = int(((ranks[0] < k) & (ranks[1] < k)).sum())
        found = ((drawn[0] < k) & (drawn[1] < k)).sum(axis=1) / k
        low, high = np.percentile(found, (2.5, 97.5)) if several else (np.nan, np.nan)
        rows.append((k, k / heads, common, common / k, k / heads, low, high))
    names = ("heads", "heads_share", "common", "common_share", "chance", "ci_low", "ci_high")
    return pd.DataFrame(rows, columns=list(names))


def _resampled(scores: HeadScores, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Sums over resampled images, [resamples, heads]; the scores themselves if there is one image."""
    images = len(scores.hits)
    hits = scores.hits.reshape(images, -1).astype(np.float64)
    return rng.multinomial(images, np.full(images, 1 / images), size=resamples) @ hits


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Each head's place by score in its row, 0 the highest; of equal ones the lower index comes first."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.argsort(order, axis=1, kind="stable")
