"""Bytes of a response: those of a run of its document alone, whatever it was answered beside."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsemm.cache.accounting import CacheBytes, cache_bytes
from sparsemm.cache.backbone import model_shape
from sparsemm.cache.checks import default_backend
from sparsemm.cache.layout import Backend
from sparsemm.cache.stock import sliding_windows
from sparsemm.models.loading import Checkpoint


def own_bytes(
    checkpoint: Checkpoint,
    kept: Tensor,
    *,
    prompt_tokens: int,
    question_tokens: int,
    new_tokens: int,
    max_new_tokens: int,
    backend: Backend | None = None,
) -> CacheBytes:
    """Count what a `RaggedCache` would hold of one document when its text is done.

    A batch's bytes depend on its longest prompt and its longest text: shared out over its documents, they
    would depend on the batch size, the limit, and what was answered before.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its config and dtype count.
    kept : Tensor
        Prompt entries kept, window included, int64 [layers, KV heads].
    prompt_tokens : int
        Without padding, its question included.
    question_tokens : int
        Those of them that came after compression.
    new_tokens : int
        Generated ids, the end token included.
    max_new_tokens, backend
        The cache's; None: the backend that it takes by itself on the checkpoint's device.
    """
    text = checkpoint.model.config.get_text_config(decoder=True)
    return cache_bytes(
        kept[:, None] + question_tokens,
        torch.tensor([prompt_tokens]),
        padded_length=prompt_tokens,
        appended=new_tokens - 1,
        max_new_tokens=max_new_tokens,
        shape=model_shape(text),
        dtype=checkpoint.dtype,
        windows=sliding_windows(text),
        backend=backend or default_backend(checkpoint.device),
    )
