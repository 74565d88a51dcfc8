"""RandomHeads: SparseMM's allocation without knowledge of the heads."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsemm.methods.base import ModelShape, check_seed
from sparsemm.methods.head_scored import HeadScored, sum_groups


@dataclass(frozen=True, eq=False)
class RandomHeads(HeadScored):
    """SparseMM's allocation (arXiv 2506.05344, its "random" baseline) from random head scores.

    Each query head's score is uniform in [0, 1), drawn once per model shape: all layers and prompts see one
    draw. (The released code draws anew in every layer, so its budgets do not sum.)

    Parameters
    ----------
    seed : int, default 0
        Of the draw.
    ratio, overflow, rounding
        See `HeadScored`.
    budget, window, kernel, pooling, gqa
        See `KVMethod`.
    """

    name: ClassVar[str] = "random"

    _: KW_ONLY
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)

    def kv_head_scores(self, shape: ModelShape) -> Tensor:
        """Return the drawn scores [layers, Hkv]; see `HeadScored.kv_head_scores`."""
        generator = torch.Generator().manual_seed(self.seed)
        size = (shape.num_hidden_layers, shape.num_attention_heads)
        return sum_groups(torch.rand(size, generator=generator, dtype=torch.float64), shape)
