"""What a cache really keeps: counted and measured, never computed from the nominal budget."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsemm.cache.layer import RaggedLayer
from sparsemm.cache.stock import Cache


@dataclass(frozen=True, eq=False)
class CacheStats:
    """State of a cache after a prompt; see `RaggedCache.stats`.

    Attributes
    ----------
    prompt_tokens
        Valid (unpadded) prompt tokens of each batch row.
    realised_budget
        Mean prompt entries kept per (layer, KV head), window included: over rows, compressible layers and
        KV heads. A question that came after compression (``question_tokens``) is not counted here.
    realised_per_head
        Prompt entries kept, int64 [compressible layers, B, KV heads].
    realised_per_row
        `realised_budget` of each row alone.
    kv_bytes
        Bytes allocated now by all layers of the cache, slack and padding included.
    slack_bytes
        Part of `kv_bytes` that waits for further tokens: slots sized by ``max_new_tokens``, still free.
    full_kv_bytes
        Bytes that the same tokens would take with nothing evicted; left padding counts, since
        `DynamicCache` holds it.
    tokens_evicted
        Valid prompt entries evicted, summed over rows, compressible layers and KV heads.
    evicted_per_row
        `tokens_evicted` of each row alone.
    """

    prompt_tokens: list[int]
    realised_budget: float
    realised_per_head: Tensor
    realised_per_row: list[float]
    kv_bytes: int
    slack_bytes: int
    full_kv_bytes: int
    tokens_evicted: int
    evicted_per_row: list[int]


def collect(cache: Cache, layers: Sequence[RaggedLayer]) -> CacheStats:
    """Read the statistics of a cache whose compressible layers are `layers`.

    Raises
    ------
    RuntimeError
        When no complete prompt went through the registered attention, so that there is nothing to report.
    ValueError
        When the model has fewer layers than the cache.
    """
    if any(layer.prompt_tokens is None for layer in layers):
        if layers[0].prompt_tokens is not None and not layers[-1].is_initialized:
            layers[0].settings.check_depth()
        seen = max(layer.get_seq_length() for layer in layers)
        declared = layers[0].settings.prompt_length
        reason = f"{seen} tokens seen"
        if declared is not None and seen < declared:
            reason += f" of prompt_length={declared}"
        elif seen:
            reason += ', but their attention did not run through "sparsemm" in every layer'
        raise RuntimeError(f"no complete prompt yet: {reason}")
    kept = torch.stack([layer.kept for layer in layers])
    valid = layers[0].valid
    compressed = valid - layers[0].question
    evicted = (compressed[None, :, None] - kept).sum(dim=(0, 2))
    stock = _bytes(
        tensor
        for layer in cache.layers
        if not isinstance(layer, RaggedLayer)
        for tensor in vars(layer).values()
        if isinstance(tensor, Tensor) and tensor.ndim  # a sliding layer keeps its window's width, too
    )
    return CacheStats(
        prompt_tokens=valid.tolist(),
        realised_budget=kept.double().mean().item(),
        realised_per_head=kept,
        realised_per_row=kept.double().mean(dim=(0, 2)).tolist(),
        kv_bytes=stock + _bytes(tensor for layer in layers for tensor in layer.tensors()),
        slack_bytes=sum(layer.slack_bytes() for layer in layers),
        full_kv_bytes=stock + sum(layer.full_bytes() for layer in layers),
        tokens_evicted=int(evicted.sum()),
        evicted_per_row=evicted.tolist(),
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Allocated bytes behind tensors, each allocation counted once."""
    storages = {storage.data_ptr(): storage.nbytes() for storage in (t.untyped_storage() for t in tensors)}
    return sum(storages.values())
