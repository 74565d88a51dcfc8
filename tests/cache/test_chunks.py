"""The work list of split-KV decoding: every entry in one chunk, no chunk longer than the others."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from sparsemm.cache.chunks import ALONE, LARGEST, SMALLEST, WANTED, Chunks, chunks_bytes, sizes

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
    *firsts, end = chunks.firsts.tolist()
    assert [listed[first] for first in firsts] == [[s, 0] for s in range(len(capacities))]
    assert end == len(listed)
    assert chunks.starts.tolist() == starts.tolist()
    assert chunks_bytes(counts) == sum(tensor.nbytes for tensor in chunks.tensors())


@given(capacities=st.lists(st.integers(1, 3000), min_size=2, max_size=40), shift=st.integers(0, 3000))
def test_a_static_list_is_as_long_however_entries_are_shared_out(capacities: list[int], shift: int) -> None:
    counts = np.array(capacities)
    moved = counts.copy()
    shift = min(shift, counts[1] - 1)
    moved[:2] += shift, -shift
    assume(all(some.max() > ALONE or some.max() > some.min() for some in (counts, moved)))
    lists = [Chunks.of(np.cumsum(some) - some, some, CPU, static=True) for some in (counts, moved)]
    assert len(lists[0].listed) == len(lists[1].listed)
    for chunks, some in zip(lists, (counts, moved), strict=True):
        plain = Chunks.of(np.cumsum(some) - some, some, CPU)
        count = len(plain.listed)
        assert torch.equal(chunks.listed[:count], plain.listed)
        assert torch.equal(chunks.firsts, plain.firsts)
        segments, numbers = chunks.listed[count:].T.numpy()
        assert (numbers * chunks.size >= some[segments]).all()  # they begin behind their segment's end


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("capacity", "size"), [(20, 64), (356, 512), (ALONE, ALONE)])
def test_short_equal_segments_are_a_chunk_each(capacity: int, size: int, static: bool) -> None:
    """So there is nothing to merge: the list has no chunk more, not even an empty one."""
    counts = np.full(8, capacity)
    chunks = Chunks.of(np.cumsum(counts) - counts, counts, CPU, static)
    assert (chunks.size, chunks.listed.tolist()) == (size, [[segment, 0] for segment in range(8)])


def test_a_long_head_is_cut_as_finely_as_the_short_ones() -> None:
    size, counts = sizes(np.array([30_000] + [100] * 200))
    assert size <= 128
    assert counts.tolist() == [-(-30_000 // size)] + [-(-100 // size)] * 200


def test_more_entries_make_longer_chunks_not_more_of_them() -> None:
    for length in (2_000, 8_000, 16_000):
        _, counts = sizes(np.full(32, length))
        assert WANTED // 4 <= counts.sum() <= 2 * WANTED
