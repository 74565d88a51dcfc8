"""Attention of new queries over a flat storage."""

import torch
from torch import Tensor
from torch.nn import functional

from sparsemm.cache.layout import Group
from sparsemm.cache.storage import FlatStorage
from sparsemm.cache.triton_decode import launch_decode, ragged_decode
from sparsemm.cache.varlen import varlen_attention


def ragged_attention(
    query: Tensor,
    storage: FlatStorage,
    scaling: float,
    visible: Tensor | None = None,
    new: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Append new entries, and attend over each segment's own.

    K and V are read in place, once per KV head: its query heads go in as further query rows.

    Parameters
    ----------
    query
        Post-RoPE queries of the last q tokens, shape [B, heads, q, head_dim].
    storage
        The layer's entries.
    scaling
        Factor of the dot products.
    visible
        Which appended tokens each query sees, the new ones included, bool [B, q, appended]; None for all. For
        a static storage it is always given, for all of the slack. Kept prompt entries are seen always.
    new
        K and V of the last q tokens, [B, KV heads, q, head_dim]; None: the storage holds them already.

    Returns
    -------
    Tensor
        Shape [B, q, heads, value head_dim].
    """
    batch, heads, tokens, head_dim = query.shape
    segments, group = batch * storage.heads, heads // storage.heads
    rows = query.reshape(segments, group * tokens, head_dim)
    if storage.chunks is not None:
        output = _by_chunk(rows, storage, scaling, visible, new)
    else:
        if new is not None:
            storage.append(*new)
        if storage.begins is None:
            output = _by_group(rows, storage, scaling, visible)
        else:
            output = varlen_attention(
                rows.view(segments, group, tokens, head_dim),
                *(storage.keys, storage.values, storage.begins, storage.ends, int(storage.lengths.max())),
                *(scaling, visible, storage.backend),
            )
    return output.reshape(batch, heads, tokens, -1).transpose(1, 2).contiguous()


def _by_chunk(
    rows: Tensor,
    storage: FlatStorage,
    scaling: float,
    visible: Tensor | None,
    new: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Let the kernel append and attend, from each segment's query rows, [segments, rows, head_dim]."""
    if new is None:
        keys, values = (
            rows.new_empty(len(rows), 0, flat.shape[1]) for flat in (storage.keys, storage.values)
        )
    else:
        keys, values = (part.reshape(len(rows), part.shape[2], part.shape[3]) for part in new)
        storage.make_room(keys.shape[1])
    assert storage.chunks is not None
    size, starts, listed, firsts = storage.chunks
    counters, appended = (None, storage.counter) if isinstance(storage.counter, int) else (storage.counter, 0)
    # Directly where that can be: the operator's way through torch takes as long again as the launch.
    decode = ragged_decode if torch.compiler.is_compiling() else launch_decode
    output = decode(
        *(rows, keys, values, storage.keys, storage.values, starts, storage.stops, counters, appended),
        *(listed, firsts, size, scaling, visible),
    )
    if counters is None:  # else the kernel has counted them
        storage.shift(keys.shape[1])
    return output


def _by_group(rows: Tensor, storage: FlatStorage, scaling: float, visible: Tensor | None) -> Tensor:
    """Attend from each segment's query rows, [segments, rows, head_dim], one group after another."""
    if visible is not None:
        visible = visible.repeat_interleave(storage.heads, dim=0)
    order = storage.order
    if order is not None:
        rows = rows[order]
        visible = None if visible is None else visible[order]
    plain = rows.dtype == torch.float32
    rows = rows * scaling if plain else rows
    appended = storage.appended if isinstance(storage.appended, int) else storage.slack
    counts = [group.count for group in storage.groups]
    seen = [None] * len(counts) if visible is None else visible.split(counts)
    parts: list[Tensor] = []
    for group, bias, own, seen_here in zip(
        storage.groups, storage.biases, rows.split(counts), seen, strict=True
    ):
        keys, values = (_used(flat, group, appended) for flat in (storage.keys, storage.values))
        if seen_here is not None:
            bias = _hide(bias, seen_here, keys, rows.shape[1])
        if plain:
            parts.append(_attend(own, keys, values, bias))
        else:  # SDPA accumulates in float32 here; the plain products would round the scores
            mask = None if bias is None else functional.pad(bias, (0, keys.shape[1] - bias.shape[2]))
            parts.append(
                functional.scaled_dot_product_attention(own, keys, values, attn_mask=mask, scale=scaling)
            )
    if order is None:
        return parts[0]
    output = torch.cat(parts)
    return torch.empty_like(output).index_copy_(0, order, output)


def _used(flat: Tensor, group: Group, appended: int) -> Tensor:
    """View of a group's slots in use, shape [count, width + appended, head_dim]: one operation, not three."""
    width = flat.shape[1]
    size, stride = (group.count, group.width + appended, width), (group.capacity * width, width, 1)
    return flat.as_strided(size, stride, group.offset * width)


def _hide(bias: Tensor | None, visible: Tensor, keys: Tensor, rows: int) -> Tensor:
    """Hide the appended tokens a query does not see, beside what a bias hides: [count, rows, slots]."""
    count, tokens, appended = visible.shape
    full = keys.new_zeros(count, tokens, keys.shape[1])
    if bias is not None:
        full[:, :, : bias.shape[2]] += bias
    full[:, :, keys.shape[1] - appended :].masked_fill_(~visible, -torch.inf)
    return full.repeat(1, rows // tokens, 1)


def _attend(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax attention of scaled queries [count, rows, head_dim] over [count, slots, head_dim]."""
    scores = torch.bmm(query, keys.transpose(1, 2))
    if bias is not None:
        scores[:, :, : bias.shape[2]] += bias
    return torch.bmm(scores.softmax(-1), values)
