"""Greedy generation: the options for ``generate``, logits without a largest one, and where rows end."""

from typing import Any

import torch
from torch import Tensor

from sparsemm.cache.stock import LogitsProcessor

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": None,
    "top_p": None,
    "top_k": None,
}
"""Options of ``generate``; None silences what a checkpoint's generation config says for sampling."""


NOT_FINITE = (
    "the model's logits are not finite: its weights hold NaN or infinity, "
    "or its number format has too little range (model.dtype)"
)


def not_finite(logits: Tensor) -> Tensor:
    """Which rows [R] of logits [R, V] have no largest one. Hidden tokens are ``-inf``, which is no fault."""
    return ~logits.amax(dim=-1).isfinite()


class FiniteLogits(LogitsProcessor):
    """Changes nothing; notes which rows had logits that are not finite, at any step until they ended.

    Parameters
    ----------
    end
        Id or ids of the end token; None: rows have no end.

    Attributes
    ----------
    lost : Tensor or None
        Bool [B]; None before the first step.
    """

    def __init__(self, end: int | list[int] | None = None) -> None:
        self.lost: Tensor | None = None
        self._end = end
        self._ended: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Look at a step's logits [B, V] and return them."""
        lost = not_finite(scores)
        if self.lost is None or self._ended is None:  # the prompt's step
            self.lost, self._ended = lost, torch.zeros_like(lost)
            return scores
        if self._end is not None:
            self._ended |= torch.isin(input_ids[:, -1], torch.as_tensor(self._end, device=input_ids.device))
        self.lost = self.lost | (lost & ~self._ended)
        return scores


def until_end(generated: Tensor, end: int | list[int] | None) -> list[list[int]]:
    """Return each row's ids up to and with its first end token, all of them where it has none.

    Parameters
    ----------
    generated
        Generated ids, padded behind the end, shape [B, T].
    end
        Id or ids of the end token; None: rows have no end.
    """
    rows: list[list[int]] = generated.tolist()
    if end is None:
        return rows
    ends = torch.isin(generated, torch.as_tensor(end, device=generated.device))
    lengths = torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, generated.shape[1])
    return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
