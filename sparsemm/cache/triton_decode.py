"""Split-KV decoding in Triton: every segment cut into chunks of one size, so that no long one is waited for.

FlashDecoding's two passes (Dao et al. 2023): each chunk is attended to alone, then a segment's chunks are
merged by the logarithms of their sums.
"""

import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sparsemm.cache.checks import triton_interpreted

TILE_BYTES = 16_384  # of K, and as much of V, in a processor's shared memory at a time
ROW_TILE = 16  # least rows of a matrix product
MOST_ROWS = 32  # of 64, float32 and head_dim 256 would not fit the shared memory of a small GPU
PART_TILE = 64  # chunks of a segment that are merged at a time: most segments in one turn
NEW_TILE = 16  # least that a matrix product takes
STAGES = 3  # tiles of K and V on their way at a time
WARPS = 4


def launch_decode(
    query: Tensor,
    new_keys: Tensor,
    new_values: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    stops: Tensor,
    counters: Tensor | None,
    appended: int,
    listed: Tensor,
    firsts: Tensor,
    size: int,
    scaling: float,
    visible: Tensor | None,
) -> Tensor:
    """Attend from each segment's query rows to its entries and to new ones, which are written behind them.

    Parameters
    ----------
    query
        Shape [segments, rows, head_dim]; with `visible`, row ``r`` is of token ``r % q``.
    new_keys, new_values
        K and V that the storage does not hold yet, shapes [segments, new tokens, head_dim] and
        [segments, new tokens, value head_dim].
    keys, values
        Flat, shapes [slots, head_dim] and [slots, value head_dim].
    starts, stops
        First slot of each segment, and the one behind its prompt entries; int64 [segments].
    counters
        Tokens appended to each segment so far, int64 [segments], the new ones added when this is done; None:
        the host counts.
    appended
        What the host counts of them.
    listed, firsts, size
        The work list: see `Chunks`.
    scaling
        Factor of the dot products.
    visible
        Which appended tokens each query sees, the new ones included, bool [B, q, at least as many as there
        are]; None for all of them.

    Returns
    -------
    Tensor
        Shape [segments, rows, value head_dim].
    """
    kernels: Any = import_module("sparsemm.cache.triton_kernels")
    segments, rows, head_dim = query.shape
    new = new_keys.shape[1]
    value_dim = values.shape[1]
    tiles = tile_sizes(head_dim, value_dim, rows, keys.element_size(), size)
    merged = query.new_empty(segments, rows, value_dim)
    row_tiles = -(-rows // tiles["ROW_TILE"])
    if len(listed) == segments and row_tiles == 1:  # a chunk for each: there is nothing to merge
        partial, sums = merged, None
    else:
        partial = query.new_empty(len(listed), rows, value_dim, dtype=torch.float32)
        sums = query.new_empty(len(listed), rows, dtype=torch.float32)
    # The interpreter would multiply the bit patterns of bfloat16.
    operand = "float32" if triton_interpreted() else str(keys.dtype).removeprefix("torch.")
    tokens, columns = (1, 0) if visible is None else visible.shape[1:]
    with torch.cuda.device_of(query):
        kernels.attend_chunk[len(listed), row_tiles](
            *(query.contiguous(), new_keys.contiguous(), new_values.contiguous(), keys, values),
            *(starts, stops, counters, listed),
            None if visible is None else visible.contiguous().view(torch.uint8),
            *(partial, sums, scaling * math.log2(math.e), appended, size, rows, new, tokens, columns),
            segments if visible is None else segments // len(visible),
            HEAD_DIM=head_dim,
            VALUE_DIM=value_dim,
            **tiles,
            OPERAND=getattr(kernels.tl, operand),
            num_stages=STAGES,
            num_warps=WARPS,
        )
        if sums is not None:
            kernels.merge_chunks[segments, rows](
                *(partial, sums, counters, firsts, merged, rows, new),
                VALUE_DIM=value_dim,
                VALUE_TILE=tiles["VALUE_TILE"],
                PART_TILE=PART_TILE,
            )
    return merged


ragged_decode = torch.library.custom_op(
    "sparsemm::ragged_decode", launch_decode, mutates_args=("keys", "values", "counters")
)
"""`launch_decode` for what is compiled, which cannot look into the launch of a kernel."""


@ragged_decode.register_fake
def _(
    query: Tensor,
    new_keys: Tensor,
    new_values: Tensor,
    keys: Tensor,
    values: Tensor,
    starts: Tensor,
    stops: Tensor,
    counters: Tensor | None,
    appended: int,
    listed: Tensor,
    firsts: Tensor,
    size: int,
    scaling: float,
    visible: Tensor | None,
) -> Tensor:
    return query.new_empty(query.shape[0], query.shape[1], values.shape[1])


def tile_sizes(head_dim: int, value_dim: int, rows: int, itemsize: int, size: int) -> dict[str, int]:
    """Choose the tiles of `attend_chunk` for K and V of `itemsize` bytes a number, in chunks of `size`."""
    key_tile, value_tile = (max(16, _power(dim)) for dim in (head_dim, value_dim))
    slot_tile = TILE_BYTES // (max(key_tile, value_tile) * itemsize)
    return {
        "KEY_TILE": key_tile,
        "VALUE_TILE": value_tile,
        "ROW_TILE": min(MOST_ROWS, max(ROW_TILE, _power(rows))),
        "SLOT_TILE": min(size, max(16, slot_tile)),
        "NEW_TILE": NEW_TILE,
    }


def _power(count: int) -> int:
    """Smallest power of two that is not below a positive count."""
    return 1 << (count - 1).bit_length()
