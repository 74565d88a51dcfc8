"""Bytes that a `RaggedCache` holds, computed from what a method keeps: for rows that were never evicted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsemm.cache.chunks import chunks_bytes
from sparsemm.cache.layout import BY_SEGMENT, Backend, lay_out
from sparsemm.methods import ModelShape

INDEX_BYTES = torch.long.itemsize


class CacheBytes(NamedTuple):
    """Bytes in use when a batch's texts are done, free slots not counted: with eviction, and without."""

    kept: int
    full: int


def cache_bytes(
    kept: Tensor,
    prompt_tokens: Tensor,
    *,
    padded_length: int,
    appended: int,
    max_new_tokens: int,
    shape: ModelShape,
    dtype: torch.dtype,
    windows: Sequence[int] = (),
    backend: Backend = "grouped",
) -> CacheBytes:
    """Count what a `RaggedCache` would hold for one batch under one method.

    The same as ``stats().kv_bytes - stats().slack_bytes`` and ``stats().full_kv_bytes`` after a run with
    ``RaggedCache(config, method, max_new_tokens=max_new_tokens)``, one that is not static: the layout is made
    by the same function, from the same lengths, and its masks and tables are counted too.

    Parameters
    ----------
    kept
        Prompt entries kept, window included, int64 [layers, B, KV heads] on the CPU.
    prompt_tokens
        Valid prompt tokens of each row, int64 [B].
    padded_length
        Tokens of the batch's prompts, padding included.
    appended
        Tokens appended to each row: one fewer than the longest text has.
    max_new_tokens
        What the room for new tokens is sized by.
    shape, dtype
        Of the model; keys and values are `head_dim` long.
    windows
        Of each sliding-window layer, in tokens (`sparsemm.cache.backbone.sliding_windows`).
    """
    layers, rows, heads = kept.shape
    entry = 2 * shape.head_dim
    full = rows * heads * (padded_length + appended) * entry * dtype.itemsize
    whole = [length for length in prompt_tokens.tolist() for _ in range(heads)]
    free = rows * heads * (max_new_tokens - appended)
    total = 0
    for lengths in kept.flatten(start_dim=1).tolist():
        if lengths == whole:
            total += full
        else:
            slots, masked, listed = _laid_out(tuple(lengths), max_new_tokens, entry, backend)
            total += ((slots - free) * entry + masked) * dtype.itemsize + listed
    # transformers keeps a sliding layer's newest entries as a view of what the last step joined.
    seen = padded_length + appended
    held = [min(seen, window) if appended else seen for window in windows]
    sliding = rows * heads * sum(held) * entry * dtype.itemsize
    return CacheBytes(total + sliding, layers * full + sliding)


@lru_cache(maxsize=65536)  # a layer's lengths come again in other layers, methods and documents
def _laid_out(
    lengths: tuple[int, ...], max_new_tokens: int, entry: int, backend: Backend
) -> tuple[int, int, int]:
    """Return slots, numbers of the masks, and bytes of the tables of one layer whose segments are so long."""
    segments = np.array(lengths)
    groups = lay_out(segments, max_new_tokens, entry, backend)
    listed = len(lengths) * INDEX_BYTES  # where each segment's appended tokens begin
    if backend in BY_SEGMENT:
        chunks = backend == "triton"
        listed += chunks_bytes(segments + max_new_tokens) if chunks else len(lengths) * INDEX_BYTES
        return groups[-1].end, 0, listed
    if len(groups) > 1:
        listed += len(lengths) * INDEX_BYTES
    masked = sum(
        len(group.segments) * (group.width - int(segments[group.segments].min())) for group in groups
    )
    return groups[-1].end, masked, listed
