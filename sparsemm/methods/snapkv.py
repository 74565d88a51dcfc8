"""SnapKV: the same number of tokens for every head of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsemm.methods.base import KVMethod, ModelShape


@dataclass(frozen=True, eq=False)
class SnapKV(KVMethod):
    """SnapKV (Li et al. 2024, arXiv 2404.14469): each head keeps the tokens that the prompt's end attends to.

    Quota: ``min(budget - W, n)`` for every head. Defaults: window 32 and average pooling of 5, as the
    released SparseMM code runs it.

    Shapes and parameters: see `KVMethod`.
    """

    name: ClassVar[str] = "snapkv"

    def quotas(self, scores: Tensor, lengths: Tensor, layer: int, shape: ModelShape) -> Tensor:
        """Return ``min(budget - W, n)`` for every head [B, Hkv]; see `KVMethod.quotas`."""
        quota = torch.minimum(self.evictable_budgets(lengths), lengths)
        return quota[:, None].repeat(1, shape.num_key_value_heads)
