"""Variable-length attention of torch and of flash-attn over a flat storage, read where it lies.

Their sequences must follow each other without a gap, and segments have slack between them. So there are twice
as many sequences: every second one is a slack, to which no query belongs.
"""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sparsemm.cache.layout import Backend

DTYPES = (torch.float16, torch.bfloat16)


def varlen_function(backend: Backend) -> Callable[..., Tensor]:
    """Return the library's function.

    Raises
    ------
    ImportError
        When the package is not installed, or too old.
    """
    if backend == "flash_attn":
        return import_module("flash_attn").flash_attn_varlen_func
    function = import_module("torch.nn.attention.varlen").varlen_attn
    missing = {"window_size", "scale", "enable_gqa"} - inspect.signature(function).parameters.keys()
    if missing:
        raise ImportError(f"its varlen_attn has no {' and no '.join(sorted(missing))}")
    return function


def varlen_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    begins: Tensor,
    ends: Tensor,
    longest: int,
    scaling: float,
    visible: Tensor | None,
    backend: Backend,
) -> Tensor:
    """Attend from each segment's queries to its entries.

    Parameters
    ----------
    query
        Shape [segments, group, q, head_dim].
    keys, values
        Flat, shapes [slots, head_dim] and [slots, value head_dim].
    begins, ends
        First slot of each segment, 0 of the first, and the one behind its last entry, int64 [segments].
    longest
        Entries of the longest segment.
    scaling
        Factor of the dot products.
    visible
        Which appended tokens each query sees, bool [B, q, appended]; None for all.
    backend
        Whose function.

    Returns
    -------
    Tensor
        Shape [segments, group, q, value head_dim].

    Raises
    ------
    ValueError
        When a token is hidden by more than causality: these functions take no mask.
    """
    segments, group, tokens, head_dim = query.shape
    causal = tokens > 1
    if visible is not None:
        appended = visible.shape[2]
        plain = visible.new_ones(tokens, appended).tril(appended - tokens)
        if not causal or not bool((visible == plain).all()):
            raise ValueError(
                f"backend {backend!r} cannot hide the padding of a later turn: take 'triton' or 'grouped'"
            )
    # Group and KV head are heads of a sequence only in a turn of several tokens: flash-attn turns heads into
    # queries by itself where all sequences have one, and then wants one in each of them.
    heads = group if causal else 1
    packed = query.transpose(1, 2).reshape(-1, heads, head_dim)
    each = len(packed) // segments
    edges = torch.stack([begins, ends], dim=1).flatten()
    key_edges = torch.cat([edges, edges.new_full((1,), len(keys))]).int()
    query_edges = (torch.arange(2 * segments + 1, device=query.device, dtype=torch.int32) + 1) // 2 * each
    arguments: dict[str, Any] = {"softmax_scale": scaling, "causal": causal}
    if backend == "torch_varlen":
        arguments = {"scale": scaling, "window_size": (-1, 0 if causal else -1), "enable_gqa": heads > 1}
    output = varlen_function(backend)(
        *(packed, keys[:, None], values[:, None], query_edges, key_edges, each, longest),
        **arguments,
    )
    return output.view(segments, tokens, group, -1).transpose(1, 2)
