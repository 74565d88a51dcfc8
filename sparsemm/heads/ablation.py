"""Which query heads an ablation switches off: the visual ones, or as many others (arXiv 2506.05344)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsemm.cache.head_mask import MaskMode
from sparsemm.heads.scores import HeadScores
from sparsemm.methods.base import check_choice, check_seed


@dataclass(frozen=True, eq=False)
class Ablation(ABC):
    """A share of all query heads of a model, switched off in prompt and generation.

    Parameters
    ----------
    fraction : float
        Share of the heads of all compressible layers, in (0, 1]; rounded to whole heads, at least one.
    head_scores : HeadScores or path
        The model's.
    mode : {"remove", "uniform"}, default "remove"
        What switching off means; see `sparsemm.cache.head_mask.HeadMask`.

    Raises
    ------
    ValueError
        One line, for a value outside these ranges.
    """

    fraction: float
    head_scores: HeadScores
    _: KW_ONLY
    mode: MaskMode = "remove"

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_scores", HeadScores.of(self.head_scores))
        value: Any = self.fraction
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise ValueError(f"fraction must be a share of the heads in (0, 1], got {value!r}")
        check_choice("mode", self.mode, ("remove", "uniform"))

    @property
    def count(self) -> int:
        """How many heads are switched off."""
        return max(1, round(self.fraction * self.head_scores.scores.size))

    def heads(self) -> NDArray[np.bool_]:
        """Return which heads are switched off, bool [layers, query heads]."""
        scores = self.head_scores.scores
        mask = np.zeros(scores.size, dtype=bool)
        # Stable: of heads with equal scores the first come first.
        mask[self.chosen(np.argsort(-scores, axis=None, kind="stable"))] = True
        return mask.reshape(scores.shape)

    @abstractmethod
    def chosen(self, ranked: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return `count` numbers of heads out of all of them, which come highest score first."""


@dataclass(frozen=True, eq=False)
class MaskVisual(Ablation):
    """The heads of highest visual score."""

    def chosen(self, ranked: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first ones."""
        return ranked[: self.count]


@dataclass(frozen=True, eq=False)
class MaskRandom(Ablation):
    """As many heads drawn at random among all but those that `MaskVisual` takes; one draw per seed.

    The code released with the paper draws among all heads and layer by layer; there random heads are visual
    ones, too.

    Parameters
    ----------
    seed : int, default 0
    """

    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        if 2 * self.count > self.head_scores.scores.size:
            raise ValueError(
                f"fraction must be at most 0.5 for random heads: of {self.head_scores.scores.size} there are "
                f"not {self.count} beside the {self.count} visual ones"
            )

    def chosen(self, ranked: NDArray[np.int64]) -> NDArray[np.int64]:
        """A draw without replacement."""
        return np.random.default_rng(self.seed).choice(ranked[self.count :], self.count, replace=False)
