"""StreamingLLM: the first tokens and the last ones, whatever they say."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from sparsemm.methods.base import KVMethod, ModelShape, check_count


@dataclass(frozen=True, eq=False)
class StreamingLLM(KVMethod):
    """StreamingLLM (Xiao et al. 2023, arXiv 2309.17453): attention sinks and the most recent tokens.

    Quota: ``min(budget - W, n)`` for every head: the first `sinks` tokens of the prompt, then the latest
    before the window. Where the budget leaves room for fewer than `sinks` tokens, it holds the first of them.

    Parameters
    ----------
    sinks : int, default 4
        First tokens of the prompt, padding not counted, that are kept: 4 in the paper.
    budget, window
        See `KVMethod`. Nothing is attended to or pooled: there is no `kernel`, `pooling` or `gqa`.

    Raises
    ------
    ValueError
        As `KVMethod`, or `sinks` is no positive integer.
    """

    name: ClassVar[str] = "streaming_llm"

    _: KW_ONLY
    sinks: int = 4
    kernel: int = field(init=False, default=1)
    pooling: str = field(init=False, default="avg")
    gqa: str = field(init=False, default="mean")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("sinks", self.sinks)

    def token_scores(self, query: Tensor, key: Tensor, scaling: float | None, valid: Tensor | None) -> Tensor:
        """Return each token's place in the order of keeping, as shares [B, Hkv, max(L - W, 0)].

        Later tokens score higher, up to 1; sinks above 1, the first of them most; padding 0.
        """
        batch, kv_heads, length = key.shape[:3]
        columns = max(length - self.window, 0)
        if valid is None:
            place = torch.arange(columns, device=key.device).expand(batch, columns)
        else:
            place = valid[:, :columns].long().cumsum(dim=1) - 1  # -1 at padding
        scores = (place + 1) / max(columns, 1)
        scores = torch.where((place >= 0) & (place < self.sinks), 2.0 + self.sinks - place, scores)
        return scores.float()[:, None].repeat(1, kv_heads, 1)

    def scoring(self) -> Hashable:
        """All budgets share one order; see `KVMethod.scoring`."""
        return (self.name, self.window, self.sinks)

    def quotas(self, scores: Tensor, lengths: Tensor, layer: int, shape: ModelShape) -> Tensor:
        """Return ``min(budget - W, n)`` for every head [B, Hkv]; see `KVMethod.quotas`."""
        quota = torch.minimum(self.evictable_budgets(lengths), lengths)
        return quota[:, None].repeat(1, shape.num_key_value_heads)
