"""Confidence intervals of scores, and of differences to FullKV, by a bootstrap over documents.

Documents that share an image stand and fall together: what is drawn, with replacement, are images with all
their documents. All cells of a task meet the same draws, so that differences to FullKV are paired.

The percentile method: its ends are scores that resamples really had, so that they stay in the metric's range
and exist where all documents agree. BCa gives no interval there, and its jackknife would call a corpus
metric once more for every document.
"""

from __future__ import annotations

import json
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparsemm.evaluation import aggregation

RESAMPLES = 4000
CORPUS_RESAMPLES = 500
"""Of metrics that a task's own function aggregates: 0.4 s a call where it starts a tokenizer (CIDEr)."""

LEVEL = 95.0
"""Per cent of the bootstrap's values that lie inside an interval."""

SEED = 0


def intervals(cells: Sequence[Mapping[str, Any]], full: Mapping[str, Any] | None) -> list[dict[str, float]]:
    """The columns ``ci_*`` and ``diff_ci_*`` of cells on the same documents.

    Parameters
    ----------
    cells : sequence of cells
        As in their files: ``row`` and ``samples``.
    full : cell or None
        FullKV's; without it there are no ``diff_ci_*``.

    Returns
    -------
    list of dict
        In the order of `cells`. Empty where the score cannot be had from what the cell holds of its
        documents, or where all documents share one image.
    """
    found: list[dict[str, float]] = [{} for _ in cells]
    means: dict[tuple[int, ...], list[int]] = {}
    for index, cell in enumerate(cells):
        clusters = clusters_of(cell, full)
        if max(clusters, default=0) < 1:
            continue
        if is_mean(cell) and (full is None or is_mean(full)):
            means.setdefault(clusters, []).append(index)
        else:
            found[index] = _corpus_columns(cell, full, clusters)
    for clusters, chosen in means.items():
        rows = [cells[index]["samples"]["score"] for index in chosen]
        if full is not None:
            rows.append(full["samples"]["score"])
        drawn = resampled_means(rows, clusters)
        for position, index in enumerate(chosen):
            found[index] = _columns(drawn[position], None if full is None else drawn[-1])
    return found


def interval(values: Sequence[float], clusters: Sequence[int] | None = None) -> tuple[float, float]:
    """Ends of the interval of the mean of one value per document."""
    return ends(resampled_means([values], range(len(values)) if clusters is None else clusters)[0])


def is_mean(cell: Mapping[str, Any]) -> bool:
    """Whether a cell's score is the mean of its documents' own scores."""
    scores = cell["samples"]["score"]
    if not scores or None in scores:
        return False
    return math.isclose(math.fsum(scores) / len(scores), cell["row"]["score"], abs_tol=1e-9)


def clusters_of(cell: Mapping[str, Any], full: Mapping[str, Any] | None) -> tuple[int, ...]:
    """The number of each document's cluster, from 0 in order of appearance.

    Documents without an image, and all documents of cells that hold no images, are clusters of their own.
    FullKV's images count before the cell's: they must be the same for all cells that are compared.
    """
    own = [None] * len(cell["samples"]["score"])
    known = [held["samples"].get("image") for held in (full, cell) if held is not None]
    images = next((column for column in known if column), own)
    numbers: dict[Any, int] = {}
    return tuple(numbers.setdefault(image or document, len(numbers)) for document, image in enumerate(images))


def resampled_means(rows: Sequence[ArrayLike], clusters: Sequence[int]) -> NDArray[np.float64]:
    """Means of resamples [rows, RESAMPLES] of rows of scores [rows, documents], which meet the same draws.

    A resample's mean is the sum of its clusters' sums over the number of their documents.
    """
    counts = np.bincount(clusters).astype(np.float64)
    sums = [np.bincount(clusters, weights=np.asarray(row, dtype=np.float64)) for row in rows]

    def statistic(drawn: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
        flat = drawn.reshape(-1, drawn.shape[-1])  # [resamples, clusters]: which clusters were drawn
        places = flat + len(counts) * np.arange(len(flat))[:, None]
        times = np.bincount(places.ravel(), minlength=len(flat) * len(counts)).reshape(len(flat), -1)
        times = times.astype(np.float64)
        # Row by row, so that the last bit of a cell's numbers does not depend on the cells beside it.
        means = [times @ row / (times @ counts) for row in sums]
        return np.reshape(means, (len(rows), *drawn.shape[:-1]))

    return _resampled(statistic, len(counts), RESAMPLES, vectorized=True)


def _resampled(
    statistic: Callable[..., Any], clusters: int, resamples: int, *, vectorized: bool
) -> NDArray[np.float64]:
    """A statistic of drawn clusters' numbers over resamples; the same draws whatever the statistic is."""
    from scipy.stats import bootstrap  # here: it takes longer than all else that looking at results needs

    result = bootstrap(
        (np.arange(clusters),),
        statistic,
        n_resamples=resamples,
        vectorized=vectorized,
        confidence_level=LEVEL / 100,
        method="percentile",
        rng=np.random.default_rng(SEED),
    )
    return np.asarray(result.bootstrap_distribution, dtype=np.float64)


def _corpus_columns(
    cell: Mapping[str, Any], full: Mapping[str, Any] | None, clusters: tuple[int, ...]
) -> dict[str, float]:
    """The columns of a cell whose score the task's own function aggregates."""
    held = [cell] if full is None or full is cell else [cell, full]
    if any(not each["row"].get("aggregation") or "aggregated" not in each["samples"] for each in held):
        return {}
    drawn = []
    for each in held:
        name, inputs = each["row"]["aggregation"], each["samples"]["aggregated"]
        aggregation.find(name)  # a name that may not be called is an error
        try:
            drawn.append(
                _resampled_corpus(name, tuple(map(json.dumps, inputs)), clusters, each["row"]["score"])
            )
        except Exception as error:  # the task's own code, on documents in numbers that it was not written for
            reason = " ".join(f"{type(error).__name__} {error}".split())
            warnings.warn(f"no interval from {name}: {reason}", stacklevel=2)
            return {}
    return _columns(drawn[0], None if full is None else drawn[-1])


@lru_cache(maxsize=1024)
def _resampled_corpus(
    name: str, documents: tuple[str, ...], clusters: tuple[int, ...], score: float
) -> NDArray[np.float64]:
    """The aggregation of resamples; kept, since tables are derived anew after each cell.

    Raises
    ------
    ValueError
        If the aggregation of all documents is not the cell's score, or that of a resample no number.
    """
    make = aggregation.find(name)
    copy_of = lru_cache(maxsize=None)(lambda document, copy: aggregation.copy_of(documents[document], copy))
    with tempfile.TemporaryDirectory() as folder, aggregation.quiet():

        def statistic(drawn: NDArray[np.int64]) -> float:
            times = np.bincount(drawn, minlength=max(clusters) + 1).tolist()
            chosen = [
                copy_of(document, copy)
                for document, cluster in enumerate(clusters)
                for copy in range(times[cluster])
                if documents[document] != "null"  # it has no part in this metric
            ]
            return aggregation.call(make(), json.loads(f"[{','.join(chosen)}]"), folder)

        whole = statistic(np.arange(max(clusters) + 1))
        if not math.isclose(whole, score, rel_tol=1e-6, abs_tol=1e-9):
            raise ValueError(f"it gives {whole} for all documents, and the score is {score}")
        values = _resampled(statistic, max(clusters) + 1, CORPUS_RESAMPLES, vectorized=False)
    if not np.isfinite(values).all():
        raise ValueError("it gives no number for a resample")
    return values


def _columns(ours: NDArray[np.float64], full: NDArray[np.float64] | None) -> dict[str, float]:
    """The columns from the resamples of a cell and of FullKV, which had the same draws."""
    low, high = ends(ours)
    columns = {"ci_low": low, "ci_high": high}
    if full is not None:
        columns["diff_ci_low"], columns["diff_ci_high"] = ends(ours - full)
    return columns


def ends(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """The interval that holds `LEVEL` per cent of the resampled values."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return round(float(low), 6), round(float(high), 6)
