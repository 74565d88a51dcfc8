"""Token scores: how much the window's queries attend to each earlier prompt token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def window_attention(
    query: Tensor,
    key: Tensor,
    *,
    window: int,
    kernel: int,
    pooling: str,
    gqa: str,
    scaling: float | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Return the pooled attention mass of the window's queries on each token before the window.

    SnapKV (arXiv 2404.14469, section 4), per KV head: softmax attention of the last W queries over all keys
    (causal inside the window), mean over the queries, mean or max over the query heads of the group, the
    columns before the window, then pooled over neighbours, with zeros beyond both ends as in the released
    code.

    Parameters
    ----------
    query : Tensor [B, Hq, L or W, D]
    key : Tensor [B, Hkv, L, D]
    window, kernel, pooling, gqa
        See `sparsemm.methods.KVMethod`.
    scaling : float, optional
        Factor of the logits, ``D ** -0.5`` unless given.
    valid : BoolTensor [B, L], optional
        False marks left padding: it gets no attention, and its neighbours are pooled as if it were not there.

    Returns
    -------
    Tensor [B, Hkv, max(L - W, 0)], float32
        0 at padding.

    Raises
    ------
    ValueError
        If the query has fewer positions than the window and the prompt allow, or the heads do not divide.
    """
    batch, query_heads, positions, head_dim = query.shape
    kv_heads, length = key.shape[1], key.shape[2]
    if query_heads % kv_heads:
        raise ValueError(f"{query_heads} query heads cannot be shared by {kv_heads} KV heads")
    if length <= window:
        return key.new_zeros((batch, kv_heads, 0), dtype=torch.float32)
    if positions < window:
        raise ValueError(f"the window has {window} queries, got {positions}")
    group = query_heads // kv_heads
    earlier = length - window

    # The group's queries are rows of one product: K is never repeated. fp32: in a lower precision many near
    # ties would be decided by the batch's shape.
    rows = query[:, :, -window:].reshape(batch, kv_heads, group * window, head_dim).float()
    rows = rows * (head_dim**-0.5 if scaling is None else scaling)
    logits = torch.matmul(rows, key.transpose(2, 3).float()).view(batch, kv_heads, group, window, length)
    # The lowest finite number, not -inf: a padded query sees nothing, and its unused softmax must not be NaN.
    lowest = torch.finfo(torch.float32).min
    future = torch.ones(window, window, dtype=torch.bool, device=key.device).triu_(1)
    logits[..., earlier:].masked_fill_(future, lowest)
    if valid is not None:
        logits.masked_fill_(~valid[:, None, None, None, :], lowest)

    scores = logits.softmax(dim=-1)[..., :earlier].mean(dim=3)
    scores = scores.mean(dim=2) if gqa == "mean" else scores.amax(dim=2)
    if kernel > 1:
        pool = F.avg_pool1d if pooling == "avg" else F.max_pool1d
        scores = pool(scores, kernel_size=kernel, stride=1, padding=kernel // 2)
    if valid is not None:
        # Padding got no attention, so it pooled as zeros do; what it took from its neighbours is removed, and
        # so is whatever rows shorter than the window have.
        scores = scores.masked_fill(~valid[:, None, :earlier], 0.0)
    return scores
