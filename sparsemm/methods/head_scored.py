"""Methods that share one budget among all heads of all layers by a fixed score per head."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from sparsemm.methods.allocation import largest_remainder, water_fill
from sparsemm.methods.base import KVMethod, ModelShape, check_choice, check_layer, check_share

# An allocation is a few kB and depends on the prompt's length only, so it is computed once per length.
_ALLOCATIONS_KEPT = 1024


@dataclass(frozen=True, eq=False)
class HeadScored(KVMethod):
    """Allocation over all compressible layers and KV heads in proportion to head scores.

    With b = budget - W and s_h the score of a KV head, normalised to 1 over all layers and heads, the quota
    is ``min(n, ratio * b + level * s_h)`` with one level for the whole model; see `allocation.water_fill`.

    Parameters
    ----------
    ratio : float, default 0.1
        Part of b that every head is sure of, in [0, 1]; 0.1 in the released code's scripts.
    overflow : {"redistribute", "drop"}, default "redistribute"
        What happens to tokens beyond the n that a head can hold. "redistribute": other heads get them, and
        quotas sum to layers * Hkv * min(b, n). "drop": they are lost, as in the released code, whose quota
        is ``round(s_h * (b - int(ratio * b)) * layers * Hkv + int(ratio * b))`` cut at n, halves to even.
    rounding : {"exact", "released"}, default "exact"
        "released" (needs ``overflow="drop"``): heads are cut even when the budget equals the prompt, as in
        the released code.
    budget, window, kernel, pooling, gqa
        See `KVMethod`.
    """

    _: KW_ONLY
    ratio: float = 0.1
    overflow: str = "redistribute"
    rounding: str = "exact"
    _allocations: dict[tuple[int, int, ModelShape], Tensor] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("ratio", self.ratio)
        check_choice("overflow", self.overflow, ("redistribute", "drop"))
        check_choice("rounding", self.rounding, ("exact", "released"))
        if self.rounding == "released" and self.overflow != "drop":
            raise ValueError('rounding="released" is the released code only with overflow="drop"')

    def keeps_all(self, prompt_length: int) -> bool:
        """Say whether a prompt is surely kept whole; the released rounding evicts at budget == prompt."""
        if self.rounding == "released" and prompt_length > self.window:
            return prompt_length < self.budget_tokens(prompt_length)
        return super().keeps_all(prompt_length)

    @abstractmethod
    def kv_head_scores(self, shape: ModelShape) -> Tensor:
        """Return the scores [layers, Hkv], float64 on the CPU, not negative, summing to 1."""

    def allocation(self, n: int, shape: ModelShape) -> Tensor:
        """Return the quotas [layers, Hkv], long on the CPU, of a prompt with `n` tokens before the window."""
        b = max(self.budget_tokens(n + self.window) - self.window, 0)
        table = self._allocations.get((n, b, shape))
        if table is None:
            table = self._allocate(n, b, shape)
            if len(self._allocations) >= _ALLOCATIONS_KEPT:
                self._allocations.clear()
            self._allocations[n, b, shape] = table
        return table

    def quotas(self, scores: Tensor, lengths: Tensor, layer: int, shape: ModelShape) -> Tensor:
        """Return the layer's row of each prompt's allocation [B, Hkv]; see `KVMethod.quotas`."""
        check_layer(layer, shape)
        rows = [self.allocation(n, shape)[layer] for n in lengths.tolist()]
        return torch.stack(rows).to(lengths.device)

    def _allocate(self, n: int, b: int, shape: ModelShape) -> Tensor:
        scores = self.kv_head_scores(shape)
        heads = scores.numel()
        if self.overflow == "redistribute":
            shares = water_fill(scores.flatten(), n=n, b=b, ratio=self.ratio)
            table = largest_remainder(shares, torch.tensor(heads * min(b, n)))
        elif b > n or (b == n and self.rounding == "exact"):
            table = torch.full((heads,), n)
        else:
            sure = int(b * self.ratio)
            table = torch.round(scores.flatten() * ((b - sure) * heads) + sure).long().clamp(max=n)
        return table.view(scores.shape)


def sum_groups(scores: Tensor, shape: ModelShape) -> Tensor:
    """Return KV head scores [layers, Hkv] that sum to 1 from query head scores [layers, Hq].

    A KV head's score is the sum over the query heads that share it.

    Raises
    ------
    ValueError
        If the scores are not of the model's shape.
    """
    expected = (shape.num_hidden_layers, shape.num_attention_heads)
    if tuple(scores.shape) != expected:
        raise ValueError(
            f"head scores are {tuple(scores.shape)}, the model's layers and query heads {expected}"
        )
    groups = (scores / scores.sum()).unflatten(1, (shape.num_key_value_heads, -1))
    return groups.sum(dim=-1)
