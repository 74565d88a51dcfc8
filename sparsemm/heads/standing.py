"""How a run stands: the best heads so far, and whether more documents would still change their order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsemm.heads.concentration import spearman

SHOWN = 3
"""So many heads are named while a run goes on."""


def top_heads(scores: np.ndarray, k: int) -> list[str]:
    """The k heads of highest score as ``layer-head``, highest first."""
    order = np.argsort(-scores, axis=None, kind="stable")[:k]
    return [f"{layer}-{head}" for layer, head in zip(*np.unravel_index(order, scores.shape), strict=True)]


def halves_agreement(hits: np.ndarray) -> float:
    """Spearman's rank correlation of the heads' scores between every other document and the rest.

    hits [documents, layers, query heads]; NaN for fewer than two documents.
    """
    if len(hits) < 2:
        return float("nan")
    return spearman(hits[::2].sum(axis=0).ravel(), hits[1::2].sum(axis=0).ravel())


def standing(hits: Sequence[np.ndarray]) -> str:
    """The end of the progress line: ``best 7-3 6-1 7-0, halves agree 0.981``; empty if nothing was read."""
    table = np.concatenate(hits) if hits else np.zeros((0, 1, 1))
    if not table.any():
        return ""
    best = f"best {' '.join(top_heads(table.sum(axis=0, dtype=np.float64), SHOWN))}"
    return best if len(table) < 2 else f"{best}, halves agree {halves_agreement(table):.3f}"
