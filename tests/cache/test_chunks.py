"""The work list of split-KV decoding: every entry in one chunk, no chunk longer than the others."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsemm.cache.chunks import LARGEST, SMALLEST, WANTED, Chunks, chunks_bytes, sizes

CPU = torch.device("cpu")


@given(capacities=st.lists(st.integers(1, 3000) | st.integers(1, 200_000), min_size=1, max_size=40))
def test_every_entry_is_in_one_chunk(capacities: list[int]) -> None:
    counts = np.array(capacities)
    starts = np.cumsum(counts) - counts
    chunks = Chunks.of(starts, counts, CPU)
    assert SMALLEST <= chunks.size <= LARGEST
    listed = chunks.listed.tolist()
    assert listed == [
        [segment, chunk]
        for segment, count in enumerate(capacities)
        for chunk in range(-(-count // chunks.size))
    ]
    assert [listed[first] for first in chunks.firsts.tolist()] == [[s, 0] for s in range(len(capacities))]
    assert chunks.starts.tolist() == starts.tolist()
    assert chunks_bytes(counts) == sum(tensor.nbytes for tensor in chunks.tensors())


def test_a_long_head_is_cut_as_finely_as_the_short_ones() -> None:
    size, counts = sizes(np.array([30_000] + [100] * 200))
    assert size <= 128
    assert counts.tolist() == [-(-30_000 // size)] + [-(-100 // size)] * 200


def test_more_entries_make_longer_chunks_not_more_of_them() -> None:
    for length in (2_000, 8_000, 16_000):
        _, counts = sizes(np.full(32, length))
        assert WANTED // 4 <= counts.sum() <= 2 * WANTED
