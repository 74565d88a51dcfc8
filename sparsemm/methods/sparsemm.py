"""SparseMM: most of the budget goes to the visual heads."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from pkgutil import resolve_name
from typing import Any, ClassVar

import torch
from torch import Tensor

from sparsemm.methods.base import ModelShape, check_choice, check_seed
from sparsemm.methods.head_scored import HeadScored, sum_groups


@dataclass(frozen=True, eq=False)
class SparseMM(HeadScored):
    """SparseMM (Wang et al. 2025, arXiv 2506.05344): heads that look at the image keep more of it.

    A KV head's score is the sum of its query heads' visual scores, normalised to 1 over all compressible
    layers and heads. For the quotas see `HeadScored`.

    Parameters
    ----------
    head_scores : Tensor, array or nested sequence [layers, query heads], an object with such ``scores``; path
        Visual scores: finite, not negative, not all zero; or a file of them, which is read. Kept as a
        float64 tensor on the CPU. Compared with the model's shape when quotas are asked for.
    control : {None, "layer_mean", "shuffled", "flat"}, default None
        What stands in for the scores, to see what they are worth. "layer_mean": every head of a layer has
        the layer's mean, so that only the layers differ. "shuffled": the KV heads' scores permuted over all
        layers and heads by `seed`: the same quotas for other heads. "flat": all equal, which is SnapKV's
        allocation.
    seed : int, default 0
        Of the "shuffled" control; without it no other than 0 is taken, since it would change nothing.
    ratio, overflow, rounding
        See `HeadScored`.
    budget, window, kernel, pooling, gqa
        See `KVMethod`.
    """

    name: ClassVar[str] = "sparsemm"

    # Given as any of the forms above, kept as a Tensor.
    head_scores: Any = field(repr=False)
    _: KW_ONLY
    control: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seed(self.seed)
        check_choice("control", self.control, (None, "layer_mean", "shuffled", "flat"))
        if self.seed and self.control != "shuffled":
            raise ValueError(f"seed belongs to control='shuffled', and control is {self.control!r}")
        object.__setattr__(self, "head_scores", _checked(self.head_scores))

    def kv_head_scores(self, shape: ModelShape) -> Tensor:
        """Return the scores, or their control, [layers, Hkv]; see `HeadScored.kv_head_scores`."""
        scores = sum_groups(self.head_scores, shape)
        if self.control == "layer_mean":
            return scores.mean(dim=1, keepdim=True).expand_as(scores)
        if self.control == "shuffled":
            order = torch.randperm(scores.numel(), generator=torch.Generator().manual_seed(self.seed))
            return scores.flatten()[order].view_as(scores)
        if self.control == "flat":
            return torch.full_like(scores, 1.0 / scores.numel())
        return scores


def _checked(head_scores: Any) -> Tensor:
    """Return head scores as float64 [layers, query heads] on the CPU, or raise a one-line ``ValueError``."""
    if isinstance(head_scores, str) or hasattr(head_scores, "__fspath__"):
        # Files belong to a room above this one: it is looked up by name, and only where there is a file.
        try:
            head_scores = resolve_name("sparsemm.heads:HeadScores").load(head_scores)
        except OSError as error:
            raise ValueError(
                f"head_scores must be numbers [layers, query heads] or a file of them: {error}"
            ) from None
    try:
        scores = torch.as_tensor(getattr(head_scores, "scores", head_scores))
        scores = scores.detach().to("cpu", torch.float64, copy=True)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"head_scores must be numbers [layers, query heads]: {error}") from None
    if scores.dim() != 2:
        raise ValueError(f"head_scores must have shape [layers, query heads], got {tuple(scores.shape)}")
    if not bool(scores.isfinite().all()) or bool((scores < 0).any()):
        raise ValueError("head_scores must be finite and not negative")
    total = float(scores.sum())
    if not 0.0 < total < float("inf"):
        raise ValueError(f"head_scores must have a positive, finite sum, got {total}")
    return scores
