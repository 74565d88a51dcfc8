"""PyramidKV: many tokens in the first layers, few in the last."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsemm.methods.allocation import largest_remainder
from sparsemm.methods.base import KVMethod, ModelShape, check_choice, check_count


@dataclass(frozen=True, eq=False)
class PyramidKV(KVMethod):
    """PyramidKV (Cai et al. 2024, arXiv 2406.02069): the budget falls linearly with the layer.

    With b = budget - W, the last layer's heads keep ``min = b // beta`` tokens and the first layer's ``max
    = 2 b - min``. If the prompt cannot fill that, ``max = n`` and ``min = 2 b - n``. All heads of a layer
    keep the same number.

    Parameters
    ----------
    beta : int, default 20
        Steepness; 20 in the released SparseMM code.
    rounding : {"exact", "released"}, default "exact"
        "exact": layers are rounded by largest remainder, so that they sum to layers * min(b, n).
        "released": the step between layers is floor-divided as in the released code, which keeps more than
        the budget when the division leaves a remainder.
    budget, window, kernel, pooling, gqa
        See `KVMethod`.
    """

    name: ClassVar[str] = "pyramidkv"

    _: KW_ONLY
    beta: int = 20
    rounding: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("beta", self.beta)
        check_choice("rounding", self.rounding, ("exact", "released"))

    def quotas(self, scores: Tensor, lengths: Tensor, layer: int, shape: ModelShape) -> Tensor:
        """Return the layer's quota for every head [B, Hkv]; see `KVMethod.quotas`."""
        budgets = torch.minimum(self.evictable_budgets(lengths), lengths)
        low = budgets // self.beta
        high = torch.minimum(2 * budgets - low, lengths)
        low = 2 * budgets - high
        layers = shape.num_hidden_layers
        if layers == 1:
            quota = budgets
        elif self.rounding == "released":
            quota = high - layer * ((high - low) // (layers - 1))
        else:
            depth = torch.arange(layers, dtype=torch.float64, device=lengths.device) / (layers - 1)
            shares = high[:, None] - depth * (high - low)[:, None]
            quota = largest_remainder(shares, layers * budgets)[:, layer]
        return quota[:, None].repeat(1, shape.num_key_value_heads)
