"""Query heads that are switched off: an ablation, in prompt and generation alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sparsemm.methods import ModelShape

MaskMode = Literal["remove", "uniform"]


@dataclass(frozen=True, eq=False)
class HeadMask:
    """Which query heads are switched off, and how.

    Parameters
    ----------
    heads
        Bool [compressible layers, heads], True: off.
    mode
        "remove": the head's output is zero, so that the output projection gets nothing of it. "uniform": its
        queries are zero, so that it attends to all it may see alike and passes their mean value on, as the
        code released with SparseMM (arXiv 2506.05344) does; its KV head's choice of entries sees that too.
    """

    heads: Tensor
    mode: MaskMode = "remove"

    @classmethod
    def checked(cls, heads: Tensor | None, mode: MaskMode, shape: ModelShape) -> HeadMask | None:
        """Return a mask that fits the model; None for none.

        Raises
        ------
        ValueError
            For an unknown mode, or a mask that is not bool [layers, heads].
        """
        if mode not in get_args(MaskMode):
            raise ValueError(f"head_mask_mode must be one of {', '.join(get_args(MaskMode))}, got {mode!r}")
        if heads is None:
            return None
        heads = torch.as_tensor(heads)
        expected = (shape.num_hidden_layers, shape.num_attention_heads)
        if heads.dtype != torch.bool or heads.shape != expected:
            raise ValueError(f"head_mask must be bool {list(expected)}, is {heads.dtype} {list(heads.shape)}")
        return cls(heads, mode)

    def of_layer(self, layer: int, device: torch.device) -> HeadMask | None:
        """Return one layer's mask, `heads` bool [heads]; None where the layer loses no head."""
        heads = self.heads[layer]
        return HeadMask(heads.to(device), self.mode) if bool(heads.any()) else None

    def queries(self, query: Tensor) -> Tensor:
        """Queries [B, heads, q, head_dim] of a layer as they go into its attention."""
        return query.masked_fill(self.heads[:, None, None], 0.0) if self.mode == "uniform" else query

    def outputs(self, output: Tensor) -> Tensor:
        """Output [B, q, heads, head_dim] of a layer's attention as it goes on."""
        return output.masked_fill(self.heads[:, None], 0.0) if self.mode == "remove" else output
