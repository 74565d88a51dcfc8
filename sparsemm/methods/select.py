"""From a method and one layer's queries and keys to the kept indices, for whole batches."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsemm.methods.base import KVMethod, ModelShape, check_layer


def prompt_lengths(valid: Tensor) -> Tensor:
    """Return each row's number of valid tokens, on the CPU.

    Parameters
    ----------
    valid : BoolTensor [B, L]
        False marks padding.

    Returns
    -------
    LongTensor [B] on the CPU

    Raises
    ------
    ValueError
        If padding stands anywhere but on the left.
    """
    valid = valid.bool().cpu()
    if bool((valid[:, :-1] & ~valid[:, 1:]).any()):
        raise ValueError('padding must be on the left: set the tokenizer\'s padding_side to "left"')
    return valid.sum(dim=1)


def row_lengths(key: Tensor, valid: Tensor | None) -> Tensor:
    """Return `prompt_lengths`, or [B] times L of ``key`` [B, Hkv, L, D] where nothing is padding."""
    return torch.full((key.shape[0],), key.shape[2]) if valid is None else prompt_lengths(valid)


def top_mask(scores: Tensor, quotas: Tensor, lengths: Tensor) -> Tensor:
    """Mark the ``quotas`` best of each row's and head's last ``lengths`` columns.

    Ties go to the lower index, so the choice depends neither on the batch nor on the amount of padding.

    Parameters
    ----------
    scores : Tensor [B, Hkv, S]
        Any numbers but NaN.
    quotas : LongTensor [B, Hkv]
        Not above ``lengths``. On the CPU: no wait for the device.
    lengths : LongTensor [B]

    Returns
    -------
    BoolTensor [B, Hkv, S] on the device of `scores`
    """
    columns = scores.shape[-1]
    largest = int(quotas.max()) if quotas.numel() else 0
    if largest == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    wanted = quotas.to(scores.device).unsqueeze(-1)
    scores = mask_padding(scores, lengths)
    # The quota-th best value; topk's indices are not used because their order within ties is undefined.
    best = scores.topk(min(largest, columns), dim=-1).values
    threshold = best.gather(-1, (wanted - 1).clamp(min=0))
    above = scores > threshold
    tied = scores == threshold
    left_over = wanted - above.sum(dim=-1, keepdim=True)
    return above | (tied & (tied.cumsum(dim=-1) <= left_over))


def mask_padding(scores: Tensor, lengths: Tensor) -> Tensor:
    """Return `scores` [B, Hkv, S] with -inf before each row's last ``lengths`` columns: below every score."""
    columns = scores.shape[-1]
    if bool((lengths >= columns).all()):
        return scores
    first = (columns - lengths).to(scores.device)
    padding = torch.arange(columns, device=scores.device) < first[:, None, None]
    # A score may be -inf, too: it then counts as the lowest finite number.
    return scores.clamp(min=torch.finfo(scores.dtype).min).masked_fill(padding, -torch.inf)


def scores_of(
    method: KVMethod, query: Tensor, key: Tensor, scaling: float | None, valid: Tensor | None
) -> Tensor:
    """Return `KVMethod.token_scores`, float32 [B, Hkv, S], after checking those of a method of one's own.

    Raises
    ------
    ValueError
        For another shape, or a score that is no number.
    """
    scores = method.token_scores(query, key, scaling, valid)
    if type(method).token_scores is KVMethod.token_scores:
        # Of keys that are NaN as many are marked as the quotas say: else a row that is lost would shift what
        # the rows behind it in the batch keep.
        return scores.masked_fill(scores.isnan(), torch.finfo(scores.dtype).min)
    expected = (*key.shape[:2], max(key.shape[2] - method.window, 0))
    if scores.shape != expected:
        raise ValueError(f"{method.name}: token_scores are {list(scores.shape)}, expected {list(expected)}")
    unknown = scores.isnan()
    if valid is not None:
        unknown &= valid[:, None, : scores.shape[-1]]
    if bool(unknown.any()):
        raise ValueError(f"{method.name}: token_scores are NaN, so nothing can be chosen by them")
    return scores.float()


def quotas_of(method: KVMethod, scores: Tensor, lengths: Tensor, layer: int, shape: ModelShape) -> Tensor:
    """Return `KVMethod.quotas`, long [B, Hkv] on the CPU, after checking them.

    Raises
    ------
    ValueError
        For another shape or number format, and for a quota below 0 or above what the row has.
    """
    quotas = method.quotas(scores, lengths, layer, shape)
    if quotas.shape != scores.shape[:2] or quotas.dtype != torch.long:
        raise ValueError(
            f"{method.name}: quotas are {quotas.dtype} {list(quotas.shape)}, expected torch.int64 "
            f"{list(scores.shape[:2])}"
        )
    quotas = quotas.cpu()  # where those of our methods are already: nothing waits
    if bool(((quotas < 0) | (quotas > lengths[:, None])).any()):
        raise ValueError(
            f"{method.name}: quotas {quotas.tolist()} of layer {layer} are not between 0 and the "
            f"{lengths.tolist()} tokens before the window"
        )
    return quotas


def kept_and_counts(
    method: KVMethod,
    query: Tensor,
    key: Tensor,
    *,
    layer: int,
    shape: ModelShape,
    scaling: float | None = None,
    valid: Tensor | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Mark which prompt tokens each KV head of one layer keeps, for a whole batch at once, and count them.

    Parameters
    ----------
    method : KVMethod
    query : Tensor [B, Hq, L or W, D]
        Post-RoPE queries of the prompt, or of at least its last W tokens.
    key : Tensor [B, Hkv, L, D]
        Post-RoPE keys of the whole prompt.
    layer : int
        Index among the compressible layers.
    shape : ModelShape
    scaling : float, optional
        Factor of the logits, ``D ** -0.5`` unless given.
    valid : BoolTensor [B, L], optional
        False marks padding, on the left only. None: no padding.
    lengths : LongTensor [B] on the CPU, optional
        ``prompt_lengths(valid)``, when the caller has it: computing it waits for the device.

    Returns
    -------
    kept : BoolTensor [B, Hkv, L]
        The window included, padding never. A row's marks are those of its own run without the batch.
    counts : LongTensor [B, Hkv] on the CPU
        Of the marks; known from the quotas, so that nothing waits for the device.

    Raises
    ------
    ValueError
        For padding on the right, a layer outside the shape, or head scores of another shape.
    """
    batch, kv_heads, length = key.shape[:3]
    check_layer(layer, shape)
    if lengths is None:
        lengths = row_lengths(key, valid)
    if valid is None:
        kept = key.new_ones((batch, kv_heads, length), dtype=torch.bool)
    else:
        kept = valid.to(torch.bool)[:, None, :].repeat(1, kv_heads, 1)
    if all(method.keeps_all(row) for row in lengths.tolist()):
        return kept, lengths[:, None].repeat(1, kv_heads)
    evictable = (lengths - method.window).clamp(min=0)
    with torch.autocast(key.device.type, enabled=False):  # float32 decides, whatever is around
        scores = scores_of(method, query, key, scaling, valid)
        quotas = quotas_of(method, scores, evictable, layer, shape)
    kept[..., : scores.shape[-1]] &= top_mask(scores, quotas, evictable)
    # A row shorter than the window reaches into the window's columns only: `kept` is its valid mask there.
    return kept, quotas.cpu() + (lengths - evictable)[:, None]


def kept_mask(
    method: KVMethod,
    query: Tensor,
    key: Tensor,
    *,
    layer: int,
    shape: ModelShape,
    scaling: float | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Mark which prompt tokens each KV head keeps, BoolTensor [B, Hkv, L]: see `kept_and_counts`."""
    return kept_and_counts(method, query, key, layer=layer, shape=shape, scaling=scaling, valid=valid)[0]


def select(
    method: KVMethod,
    query: Tensor,
    key: Tensor,
    *,
    layer: int,
    shape: ModelShape,
    scaling: float | None = None,
    valid: Tensor | None = None,
) -> list[list[Tensor]]:
    """Return the kept indices of one layer: `kept_mask` as lists.

    Parameters
    ----------
    method, query, key, layer, shape, scaling, valid
        See `kept_mask`.

    Returns
    -------
    list[list[LongTensor]]
        For each batch row and KV head the indices into key's L axis (padding counted), ascending, the window
        included.
    """
    kept = kept_mask(method, query, key, layer=layer, shape=shape, scaling=scaling, valid=valid)
    counts: list[int] = kept.sum(dim=-1).flatten().tolist()
    flat = list(kept.nonzero()[:, 2].split(counts))
    heads = kept.shape[1]
    return [flat[row : row + heads] for row in range(0, len(flat), heads)]
