"""The decode kernel beside one softmax per head in float64, on any storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from sparsemm.cache.decode import ragged_attention
from sparsemm.cache.storage import FlatStorage


@contextmanager
def poisoned_memory(device: torch.device) -> Iterator[None]:
    """Let `torch.empty` give NaN, as memory in use before may hold: what was not written shows.

    Raises
    ------
    RuntimeError
        When torch does not do so.
    """
    torch.use_deterministic_algorithms(True)
    try:
        if not torch.empty(9, device=device).isnan().all():
            raise RuntimeError("torch.empty was to give NaN, and does not: unwritten results would not show")
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def storage_of(
    lengths: Sequence[Sequence[int]],
    head_dim: int,
    value_dim: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    slack: int = 5,
    seed: int = 0,
    static: bool = False,
) -> FlatStorage:
    """A storage for the kernel with random entries, NaN wherever there is none.

    Parameters
    ----------
    lengths
        Entries of each row and KV head.
    head_dim, value_dim
        Numbers of a key and of a value.
    slack, static
        See `FlatStorage.from_dense`.
    """
    generator = torch.Generator(device).manual_seed(seed)
    counts = torch.tensor(lengths)
    longest = int(counts.max())
    kept = torch.arange(longest) >= longest - counts[..., None]
    shape = (*counts.shape, longest)
    keys, values = (
        torch.randn(*shape, dim, generator=generator, device=device).to(dtype)
        for dim in (head_dim, value_dim)
    )
    storage = FlatStorage.from_dense(keys, values, kept.to(device), slack, "triton", static)
    used = torch.zeros(len(storage.keys), dtype=torch.bool)
    for start, length in zip(storage.starts, storage.lengths, strict=True):
        used[start : start + length] = True
    storage.keys[~used.to(device)] = torch.nan
    storage.values[~used.to(device)] = torch.nan
    return storage


def random_query(storage: FlatStorage, batch: int, group: int, tokens: int, seed: int = 1) -> Tensor:
    """Random queries of so many tokens, `group` query heads for each KV head, [B, heads, q, head_dim]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, storage.heads * group, tokens, storage.keys.shape[1])
    return torch.randn(shape, generator=generator).to(storage.keys.device, storage.keys.dtype)


def error_of(
    storage: FlatStorage,
    query: Tensor,
    scaling: float,
    visible: Tensor | None = None,
    new: tuple[Tensor, Tensor] | None = None,
) -> float:
    """Largest difference from the obvious answer; of numbers above 1 relative to them.

    Parameters
    ----------
    storage, query, scaling, visible, new
        See `ragged_attention`.
    """
    with poisoned_memory(query.device):
        output = ragged_attention(query, storage, scaling, visible, new).double()
    batch, heads, tokens, _ = query.shape
    if output.shape != (batch, tokens, heads, storage.values.shape[1]):
        raise RuntimeError(f"the kernel gave {list(output.shape)}")
    keys, values, queries = (tensor.double() for tensor in (storage.keys, storage.values, query))
    expected = torch.empty_like(output)
    lengths = storage.lengths
    for row in range(batch):
        for head in range(heads):
            segment = row * storage.heads + head * storage.heads // heads
            slots = slice(storage.starts[segment], storage.starts[segment] + lengths[segment])
            scores = queries[row, head] @ keys[slots].T * scaling
            if visible is not None:
                scores[:, -visible.shape[2] :].masked_fill_(~visible[row], -torch.inf)
            expected[row, :, head] = scores.softmax(-1) @ values[slots]
    return ((output - expected).abs() / expected.abs().clamp(min=1.0)).nan_to_num(torch.inf).max().item()
