"""AdaKV: heads of one layer compete for the layer's budget."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsemm.methods.allocation import largest_remainder, top_counts
from sparsemm.methods.base import KVMethod, ModelShape, check_choice, check_share
from sparsemm.methods.select import mask_padding


@dataclass(frozen=True, eq=False)
class AdaKV(KVMethod):
    """AdaKV (Feng et al. 2024, arXiv 2407.11550): a head keeps more if more of the layer's best are its own.

    With b = budget - W and c_h = the number of head h's scores among the best Hkv * b of all heads' scores,
    the head's quota is ``floor * b + (1 - floor) * c_h`` (the paper's safeguard).

    Parameters
    ----------
    floor : float, default 0.2
        Part of b that every head is sure of, in [0, 1]. 0.2 as the released SparseMM code runs AdaKV (and
        AdaKV's own code advises for GQA); 0.5 is the default of AdaKV's own code, together with ``kernel=7,
        pooling="max"`` and ``normalize=False``.
    normalize : bool, default True
        Before heads are compared, weight each head's scores by the share of its total score that its b best
        hold: a head with concentrated attention wins more. On in the released SparseMM code.
    rounding : {"exact", "released"}, default "exact"
        "exact": largest remainder, so that a layer's quotas sum to Hkv * min(b, n). "released": each head
        is rounded on its own as in the released code (the floor cut to a whole number, halves to even),
        which misses the sum by a few; and heads compete even when the budget equals the prompt.
    budget, window, kernel, pooling, gqa
        See `KVMethod`.
    """

    name: ClassVar[str] = "adakv"

    _: KW_ONLY
    floor: float = 0.2
    normalize: bool = True
    rounding: str = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("floor", self.floor)
        check_choice("normalize", self.normalize, (True, False))
        check_choice("rounding", self.rounding, ("exact", "released"))

    def keeps_all(self, prompt_length: int) -> bool:
        """Say whether a prompt is surely kept whole; the released rounding evicts at budget == prompt."""
        if self.rounding == "released" and prompt_length > self.window:
            return prompt_length < self.budget_tokens(prompt_length)
        return super().keeps_all(prompt_length)

    def quotas(self, scores: Tensor, lengths: Tensor, layer: int, shape: ModelShape) -> Tensor:
        """Return each head's quota [B, Hkv]; see `KVMethod.quotas`. Waits for the device."""
        device, heads = scores.device, scores.shape[1]
        wanted = self.evictable_budgets(lengths)
        whole = (wanted > lengths).to(device)
        limited = torch.minimum(wanted, lengths)
        most, budgets = int(limited.max()), limited.to(device)
        contest = mask_padding(scores, lengths)
        if self.normalize:
            concentration = self._concentration(contest, budgets, most)
            contest = mask_padding(scores * concentration, lengths)
        counts = top_counts(contest, heads * budgets, heads * most)
        if self.rounding == "released":
            sure = (self.floor * budgets.double()).long()[:, None]
            quota = torch.round(counts * (1 - self.floor) + sure).long()
            quota = torch.where(whole[:, None], budgets[:, None], quota)
        else:
            shares = self.floor * budgets.double()[:, None] + (1 - self.floor) * counts.double()
            quota = largest_remainder(shares, heads * budgets)
        return quota.to(lengths.device)

    def nominal_quotas(self, prompt_length: int, shape: ModelShape) -> Tensor:
        """Return b for every head [layers, Hkv]: heads compete anew in every prompt, b is a layer's mean."""
        b = self.budget_tokens(prompt_length) - self.window
        return torch.full((shape.num_hidden_layers, shape.num_key_value_heads), b)

    @staticmethod
    def _concentration(scores: Tensor, budgets: Tensor, most: int) -> Tensor:
        """Return the share [B, Hkv, 1] of each head's total score that its ``budgets`` best scores hold.

        `most` is the largest of them.
        """
        # In float64: a float32 sum's last bit would depend on how much padding stands in the row.
        positive = scores.clamp(min=0)
        total = positive.sum(dim=-1, keepdim=True, dtype=torch.float64)
        best = positive.topk(most, dim=-1).values
        inside = torch.arange(best.shape[-1], device=scores.device) < budgets[:, None, None]
        held = (best * inside).sum(dim=-1, keepdim=True, dtype=torch.float64)
        return torch.where(total > 0, held / total, 1.0).float()
