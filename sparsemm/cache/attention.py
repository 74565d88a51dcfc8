"""The attention function registered with transformers, and its mask."""

from typing import Any

import torch
from torch import Tensor

from sparsemm.cache.checks import check_attention_arguments
from sparsemm.cache.handle import KVHandle
from sparsemm.cache.stock import register_attention, sdpa_attention_forward
from sparsemm.cache.suitable import ATTENTION_NAME


def sparsemm_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor | KVHandle,
    value: Tensor | KVHandle,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention for transformers' registry.

    With plain tensors (vision tower, sliding layers, another cache) it is SDPA. With one of our caches it is
    SDPA over the full K/V while nothing was evicted, so that such runs equal ordinary ones to the bit, and
    the cache layer's own attention afterwards. The prompt is compressed here, right after its own
    attention.

    Parameters
    ----------
    module
        The model's attention module.
    query
        Post-RoPE queries, shape [B, heads, q, head_dim].
    key, value
        Shape [B, KV heads, L, head_dim], or what the cache's layer returned.
    attention_mask
        Bool [B, 1, q, L] or None.
    dropout
        Attention dropout; with a `RaggedCache` only 0.
    scaling
        Factor of the dot products; ``head_dim ** -0.5`` when None.
    **kwargs
        Whatever else the model passes on; handed to SDPA, after a check for what eviction does not support.

    Returns
    -------
    tuple
        The output, shape [B, q, heads, head_dim], and None for the weights.
    """
    if isinstance(key, KVHandle):
        layer = key.layer
        check_attention_arguments(dropout, kwargs)
        factor = query.shape[-1] ** -0.5 if scaling is None else scaling
        if layer.masked_heads is not None:
            query = layer.masked_heads.queries(query)
        if layer.keys is None or layer.values is None:
            output = layer.attend(query, attention_mask, factor)
        else:
            output, _ = sdpa_attention_forward(
                module, query, layer.keys, layer.values, attention_mask, scaling=scaling, **kwargs
            )
            if (again := layer.observe(query, attention_mask, factor)) is not None:
                last, replaced = again
                before, after = output.split([output.shape[1] - last.shape[1], last.shape[1]], dim=1)
                output = torch.cat([before, torch.where(replaced[..., None, None], last, after)], dim=1)
        if layer.masked_heads is not None:
            output = layer.masked_heads.outputs(output)
        return output, None
    assert isinstance(value, Tensor)
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )


def register() -> None:
    """Make the attention and its mask known to transformers under "sparsemm"; again changes nothing."""
    register_attention(ATTENTION_NAME, sparsemm_attention)
