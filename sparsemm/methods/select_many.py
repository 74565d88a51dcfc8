"""The kept entries of many methods for the same prompt: token scores and their order are shared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsemm.methods.base import KVMethod, ModelShape, check_layer
from sparsemm.methods.select import mask_padding, quotas_of, row_lengths, scores_of


def kept_masks(
    methods: Sequence[KVMethod],
    query: Tensor,
    key: Tensor,
    *,
    layer: int,
    shape: ModelShape,
    scaling: float | None = None,
    valid: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Tensor:
    """Mark which prompt tokens each KV head of one layer keeps under each of several methods.

    The same marks as one call of `kept_mask` for each method. Methods that score tokens alike (all budgets of
    SnapKV, PyramidKV, AdaKV and SparseMM with one window and pooling) share one scoring and one sort: a
    quota is then a rank below which an entry is kept.

    Parameters
    ----------
    methods : sequence of KVMethod
    query, key, layer, shape, scaling, valid, lengths
        As in `kept_mask`.

    Returns
    -------
    BoolTensor [methods, B, Hkv, L]

    Raises
    ------
    ValueError
        As `kept_mask`.
    """
    batch, kv_heads, length = key.shape[:3]
    check_layer(layer, shape)
    if lengths is None:
        lengths = row_lengths(key, valid)
    kept = key.new_ones((len(methods), batch, kv_heads, length), dtype=torch.bool)
    if valid is not None:
        kept &= valid.to(torch.bool)[None, :, None, :]
    for members in _by_scoring(methods, lengths.tolist()):
        first = methods[members[0]]
        evictable = (lengths - first.window).clamp(min=0)
        with torch.autocast(key.device.type, enabled=False):  # float32 decides, whatever is around
            scores = scores_of(first, query, key, scaling, valid)
            quotas = torch.stack(
                [quotas_of(methods[member], scores, evictable, layer, shape) for member in members]
            )  # [members, B, Hkv]
        ranks = _ranks(mask_padding(scores, evictable))
        kept[members, :, :, : scores.shape[-1]] &= ranks < quotas.to(ranks.device).unsqueeze(-1)
    return kept


def _by_scoring(methods: Sequence[KVMethod], lengths: Sequence[int]) -> list[list[int]]:
    """Numbers of the methods that evict anything, those together whose token scores are equal."""
    groups: dict[object, list[int]] = {}
    for number, method in enumerate(methods):
        if not all(method.keeps_all(row) for row in lengths):
            groups.setdefault(method.scoring(), []).append(number)
    return list(groups.values())


def _ranks(scores: Tensor) -> Tensor:
    """Rank of each column of [B, Hkv, S], 0 the best; ties to the lower column, as in `top_mask`."""
    order = scores.argsort(dim=-1, descending=True, stable=True)
    places = torch.arange(scores.shape[-1], device=scores.device, dtype=torch.int32)
    return torch.empty_like(order, dtype=torch.int32).scatter_(-1, order, places.expand_as(order))
