"""Attention in training: sequences of an image and branches that do not see each other, without a mask.

Matmul, softmax, matmul in autocast's type are faster on a CPU than SDPA at small head sizes, and what a mask
would hide is mostly not computed at all.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsemm.cache.stock import register_attention
from sparsemm.tiny.batches import Sections

ATTENTION = "sparsemm_training"


def training_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention of a `Batch`'s sequences, or, without ``sections``, of every token to every token.

    query [B, Hq, L, D], key and value [B, Hkv, L, D] -> [B, L, Hq, D].

    Raises
    ------
    ValueError
        If a mask is given: sections take its place.
    """
    if attention_mask is not None:
        raise ValueError(f"{ATTENTION} takes sections, no mask")
    query = query * kwargs["scaling"]
    sections: Sections | None = kwargs.get("sections")
    out = _attend(query, key, value, None) if sections is None else sectioned(query, key, value, sections)
    return out.transpose(1, 2), None


def sectioned(query: Tensor, key: Tensor, value: Tensor, sections: Sections) -> Tensor:
    """Prefix among itself, each branch to the prefix and itself, all of it causal.

    query [B, Hq, L, D] (scaled), key and value [B, Hkv, L, D] -> [B, Hq, L, D].
    """
    prefix, questions, length, transcription = sections
    middle = prefix + questions * length
    seen, seen_value = key[:, :, :prefix], value[:, :, :prefix]
    parts = [_attend(query[:, :, :prefix], seen, seen_value, causal(prefix, prefix, query))]
    if questions:
        batch, heads, _, size = query.shape
        groups = key.shape[1]
        # rows of all questions at once against the prefix; against themselves question by question
        rows = query[:, :, prefix:middle].reshape(batch * groups, -1, size)  # [B Hkv, G Q T, D]
        to_prefix = torch.bmm(rows, seen.flatten(0, 1).transpose(1, 2))
        own = query[:, :, prefix:middle].reshape(batch, groups, -1, questions, length, size)
        own = own.transpose(2, 3).reshape(batch * groups * questions, -1, size)  # [B Hkv Q, G T, D]
        own_key = key[:, :, prefix:middle].reshape(-1, length, size)  # [B Hkv Q, T, D]
        own_value = value[:, :, prefix:middle].reshape(-1, length, size)
        to_own = torch.bmm(own, own_key.transpose(1, 2)).view(-1, heads // groups, length, length)
        to_own = (to_own + causal(length, length, query)).view(
            batch * groups, questions, heads // groups, length, length
        )
        to_own = to_own.transpose(1, 2).reshape(batch * groups, -1, length)
        weights = torch.softmax(torch.cat([to_prefix, to_own], -1), -1, dtype=to_prefix.dtype)
        out = torch.bmm(weights[..., :prefix], seen_value.flatten(0, 1))
        in_own = weights[..., prefix:].view(batch * groups, heads // groups, questions, length, length)
        in_own = in_own.transpose(1, 2).reshape(batch * groups * questions, -1, length)
        in_own = torch.bmm(in_own, own_value).view(batch * groups, questions, heads // groups, length, size)
        out = out + in_own.transpose(1, 2).reshape(out.shape)
        parts.append(out.view(batch, heads, questions * length, size))
    if transcription:
        tail = slice(middle, None)
        parts.append(
            _attend(
                query[:, :, tail],
                torch.cat([seen, key[:, :, tail]], 2),
                torch.cat([seen_value, value[:, :, tail]], 2),
                causal(transcription, prefix + transcription, query),
            )
        )
    return torch.cat(parts, 2)


def causal(rows: int, columns: int, like: Tensor) -> Tensor:
    """[rows, columns] zero where a row may look, else the lowest number; the last row sees all columns."""
    hidden = torch.full((rows, columns), torch.finfo(like.dtype).min, dtype=like.dtype, device=like.device)
    return hidden.triu(columns - rows + 1)


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Query [B, Hq, T, D], key and value [B, Hkv, K, D], bias [T, K] -> [B, Hq, T, D]."""
    batch, heads, length, size = query.shape
    groups = key.shape[1]
    rows = query.reshape(batch * groups, -1, size)
    scores = torch.bmm(rows, key.reshape(batch * groups, -1, size).transpose(1, 2))
    if bias is not None:
        scores = (scores.view(-1, length, key.shape[2]) + bias).view(scores.shape)
    weights = torch.softmax(scores, -1, dtype=scores.dtype)
    return torch.bmm(weights, value.reshape(batch * groups, -1, size)).view(batch, heads, length, size)


register_attention(ATTENTION, training_attention)
