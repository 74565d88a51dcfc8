"""Decode steps have no gradient: they write K and V where they lie, over what a backward pass would need."""

from typing import Any, NoReturn

import torch
from torch import Tensor


class WithoutGradient(torch.autograd.Function):
    """Passes an attention's output on, and says in words why nothing can be learned through it."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, output: Tensor) -> Tensor:
        """Return the output as if it depended on the query; both are of any shape."""
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        """Raise RuntimeError."""
        raise RuntimeError(
            "RaggedCache has no gradient through steps after eviction: call backward before them, or give "
            "the model the whole text without a cache"
        )
