"""How concentrated head scores are, and how many documents they need: with intervals over the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from sparsemm.heads.scores import HeadScores
from sparsemm.recording import write_atomically

RESAMPLES = 2000
DRAWS = 200
SIZES = (10, 30, 100, 300)
"""So many images, and half of them all, are compared with all images and with the others."""


def top_share(scores: HeadScores | str | Path, *, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Share of the whole score that the best heads hold.

    Parameters
    ----------
    scores : HeadScores or path
        Measured on several images.
    resamples : int, default 2000
        Of the bootstrap over images. The best heads are chosen anew in each, so that the interval knows that
        they were chosen by the same data.
    seed : int, default 0

    Returns
    -------
    pandas.DataFrame
        One row for every k from 1 to the number of query heads: ``heads`` (k), ``heads_share`` (of all
        heads), ``score_share``, ``ci_low``, ``ci_high`` (95 %, percentile).
    """
    scores = HeadScores.of(scores)
    hits = scores.hits.reshape(len(scores.hits), -1).astype(np.float64)  # [images, heads]
    count = hits.shape[1]
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(hits), np.full(len(hits), 1 / len(hits)), size=resamples)
    low, high = np.percentile(_cumulated(times @ hits), (2.5, 97.5), axis=0)
    return pd.DataFrame(
        {
            "heads": np.arange(1, count + 1),
            "heads_share": np.arange(1, count + 1) / count,
            "score_share": _cumulated(hits.sum(axis=0, keepdims=True))[0],
            "ci_low": low,
            "ci_high": high,
        }
    )


def _cumulated(totals: np.ndarray) -> np.ndarray:
    """[rows, heads] scores -> share of their sum that the best 1, 2, … heads hold."""
    ordered = -np.sort(-totals, axis=1)
    return ordered.cumsum(axis=1) / np.maximum(ordered.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def rank_agreement(
    scores: HeadScores | str | Path, *, sizes: Sequence[int] = SIZES, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """How well a few images order the heads as many do: Spearman's rank correlation.

    Parameters
    ----------
    scores : HeadScores or path
    sizes : sequence of int, default (10, 30, 100, 300)
        Numbers of images below half of what was measured; larger ones are left out. Half of the images comes
        last: against the others it is the split-half correlation.
    draws : int, default 200
        Random choices of images per size.
    seed : int, default 0

    Returns
    -------
    pandas.DataFrame
        Two rows per size: ``images``, ``against`` (``all``: all images, the chosen ones among them;
        ``others``: the images that were not chosen), ``rank_correlation`` (mean over draws), ``low`` and
        ``high`` (95 % of the draws lie between).
    """
    scores = HeadScores.of(scores)
    hits = scores.hits.reshape(len(scores.hits), -1).astype(np.float64)
    total = hits.sum(axis=0)
    rng = np.random.default_rng(seed)
    rows = []
    half = [len(hits) // 2] if len(hits) > 1 else []
    for size in [*(size for size in sizes if 2 * size < len(hits)), *half]:
        found: dict[str, list[float]] = {"all": [], "others": []}
        for _ in range(draws):
            chosen = hits[rng.choice(len(hits), size, replace=False)].sum(axis=0)
            found["all"].append(spearman(chosen, total))
            found["others"].append(spearman(chosen, total - chosen))
        for against, values in found.items():
            low, high = np.percentile(values, (2.5, 97.5))
            mean = float(np.mean(values))
            rows.append(
                {"images": size, "against": against, "rank_correlation": mean, "low": low, "high": high}
            )
    return pd.DataFrame(rows, columns=["images", "against", "rank_correlation", "low", "high"])


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where one side orders nothing (all heads equal)."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    result: Any = spearmanr(one, other)
    return float(result.statistic)


def write_statistics(scores: HeadScores, path: Path) -> list[Path]:
    """Write ``<name>.top_share.csv`` and ``<name>.rank_agreement.csv`` beside a file of head scores."""
    written = []
    for name, table in (("top_share", top_share(scores)), ("rank_agreement", rank_agreement(scores))):
        target = path.with_suffix(f".{name}.csv")
        write_atomically(target, lambda beside, table=table: table.round(6).to_csv(beside, index=False))
        written.append(target)
    return written
