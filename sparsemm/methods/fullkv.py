"""FullKV: the uncompressed cache, the reference every method is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sparsemm.methods.base import KVMethod, ModelShape


@dataclass(frozen=True, eq=False)
class FullKV(KVMethod):
    """Keep every KV entry. Takes no parameters: there is no budget, no window and nothing is scored."""

    name: ClassVar[str] = "fullkv"
    evicts: ClassVar[bool] = False

    budget: int | float = field(init=False, default=1.0)
    window: int = field(init=False, default=0)
    kernel: int = field(init=False, default=1)
    pooling: str = field(init=False, default="avg")
    gqa: str = field(init=False, default="mean")

    def __post_init__(self) -> None:
        """Nothing to check."""

    def token_scores(self, query: Tensor, key: Tensor, scaling: float | None, valid: Tensor | None) -> Tensor:
        """Return zeros [B, Hkv, L]: with no window every token counts as evictable, and all are kept."""
        return key.new_zeros(key.shape[:3], dtype=torch.float32)

    def quotas(self, scores: Tensor, lengths: Tensor, layer: int, shape: ModelShape) -> Tensor:
        """Return n for every head [B, Hkv]."""
        return lengths[:, None].repeat(1, shape.num_key_value_heads)
