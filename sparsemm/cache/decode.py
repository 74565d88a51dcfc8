"""Attention of new queries over a flat storage."""

import torch
from torch import Tensor
from torch.nn import functional

from sparsemm.cache.layout import Group
from sparsemm.cache.storage import FlatStorage
from sparsemm.cache.triton_decode import ragged_decode
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
    output = ragged_decode(
        *(rows, keys, values, storage.keys, storage.values, starts, storage.stops, storage.ends),
        *(listed, firsts, size, scaling, visible),
    )
    storage.shift(keys.shape[1])
    return output


def _by_group(rows: Tensor, storage: FlatStorage, scaling: float, visible: Tensor | None) -> Tensor:
    """Attend from each segment's query rows, [segments, rows, head_dim], one group after another."""
    if visible is not None:
        visible = visible.repeat_interleave(storage.heads, dim=0)
    plain = rows.dtype == torch.float32
    rows = rows * scaling if plain else rows
    output: Tensor | None = None
    appended = storage.appended if isinstance(storage.appended, int) else storage.slack
    for group, bias, index in zip(storage.groups, storage.biases, storage.indices, strict=True):
        keys, values = (_used(flat, group, appended) for flat in (storage.keys, storage.values))
        if visible is not None:
            seen = visible if index is None else visible[index]
            bias = _hide(bias, seen, keys, rows.shape[1])
        chosen = rows if index is None else rows[index]
        if plain:
            part = _attend(chosen, keys, values, bias)
        else:  # SDPA accumulates in float32 here; the plain products would round the scores
            mask = None if bias is None else functional.pad(bias, (0, keys.shape[1] - bias.shape[2]))
            part = functional.scaled_dot_product_attention(
                chosen, keys, values, attn_mask=mask, scale=scaling
            )
        if index is None:
            output = part
        else:
            if output is None:
                output = part.new_empty(len(rows), *part.shape[1:])
            output.index_copy_(0, index, part)
    assert output is not None
    return output


def _used(flat: Tensor, group: Group, appended: int) -> Tensor:
    """View of a group's slots in use, shape [count, width + appended, head_dim]."""
    block = flat[group.offset : group.end].view(group.count, group.capacity, -1)
    return block[:, : group.width + appended]


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
