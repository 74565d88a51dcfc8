"""The flat storage against lists of vectors, and attention over it against one softmax per head."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsemm.cache.decode import ragged_attention
from sparsemm.cache.layout import GROUP_OVERHEAD, MAX_PADDING, Backend, lay_out, partition
from sparsemm.cache.storage import FlatStorage
from tests.cache.triton_here import in_the_interpreter

backends = pytest.mark.parametrize("backend", get_args(Backend))
statics = pytest.mark.parametrize("static", [False, True])
decoding_backends = pytest.mark.parametrize(
    "backend", ["grouped", "loop", "padded", pytest.param("triton", marks=in_the_interpreter)]
)
ROWS, HEADS, LENGTH, KEY_DIM, VALUE_DIM = 3, 2, 40, 4, 6


def filled(
    backend: Backend, seed: int = 0, slack: int | None = None, static: bool = False
) -> tuple[FlatStorage, list[Tensor], list[Tensor]]:
    """A storage of very unequal segments, and the same entries as one tensor per segment."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(ROWS, HEADS, LENGTH, KEY_DIM, generator=generator)
    values = torch.randn(ROWS, HEADS, LENGTH, VALUE_DIM, generator=generator)
    share = torch.tensor([0.05, 0.1, 0.1, 0.5, 0.9, 1.0]).view(ROWS, HEADS, 1)
    kept = torch.rand(ROWS, HEADS, LENGTH, generator=generator) < share
    kept[..., -1] = True
    storage = FlatStorage.from_dense(keys, values, kept, slack, backend, static)
    pairs = [(row, head) for row in range(ROWS) for head in range(HEADS)]
    return storage, [keys[p][kept[p]] for p in pairs], [values[p][kept[p]] for p in pairs]


def assert_holds(storage: FlatStorage, keys: list[Tensor], values: list[Tensor]) -> None:
    assert storage.lengths.tolist() == [len(entries) for entries in keys]
    for segment, (start, length) in enumerate(zip(storage.starts, storage.lengths, strict=True)):
        assert torch.equal(storage.keys[start : start + length], keys[segment])
        assert torch.equal(storage.values[start : start + length], values[segment])
    assert storage.ends.tolist() == (storage.starts + storage.lengths).tolist()


def new_tokens(count: int, rows: int = ROWS, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, HEADS, count, KEY_DIM, generator=generator),
        torch.randn(rows, HEADS, count, VALUE_DIM, generator=generator),
    )


@backends
@pytest.mark.parametrize("slack", [None, 1, 100])
def test_appends_land_behind_each_segment_also_beyond_the_slack(backend: Backend, slack: int | None) -> None:
    storage, keys, values = filled(backend, slack=slack)
    assert_holds(storage, keys, values)
    for step, count in enumerate([1, 1, 5, 1, 30, 1]):
        key, value = new_tokens(count, seed=step)
        storage.append(key, value)
        keys = [torch.cat(pair) for pair in zip(keys, key.flatten(0, 1), strict=True)]
        values = [torch.cat(pair) for pair in zip(values, value.flatten(0, 1), strict=True)]
        assert_holds(storage, keys, values)


def test_a_given_slack_needs_no_move() -> None:
    storage, _, _ = filled("grouped", slack=10)
    before = storage.keys.data_ptr()
    for _ in range(10):
        storage.append(*new_tokens(1))
    assert storage.keys.data_ptr() == before
    storage.append(*new_tokens(1))
    assert storage.keys.data_ptr() != before


@backends
def test_a_static_storage_never_moves_and_says_when_it_is_full(backend: Backend) -> None:
    storage, keys, values = filled(backend, slack=7, static=True)
    held = [tensor.data_ptr() for tensor in storage.tensors()]
    for step, count in enumerate([1, 4, 1]):
        key, value = new_tokens(count, seed=step)
        storage.check_room(count)
        storage.append(key, value)
        keys = [torch.cat(pair) for pair in zip(keys, key.flatten(0, 1), strict=True)]
        values = [torch.cat(pair) for pair in zip(values, value.flatten(0, 1), strict=True)]
        assert_holds(storage, keys, values)
    assert [tensor.data_ptr() for tensor in storage.tensors()] == held
    storage.check_room(1)
    with pytest.raises(
        RuntimeError, match="room for 7 tokens after the prompt: give a larger max_new_tokens"
    ):
        storage.check_room(2)
    storage.crop(5)
    assert storage.lengths.tolist() == [len(part) - 5 for part in keys]


@backends
@statics
@pytest.mark.parametrize("rows", [[2, 0], [1, 1, 0, 2, 2], [0]])
def test_rows_can_be_chosen_and_repeated(backend: Backend, rows: list[int], static: bool) -> None:
    storage, keys, values = filled(backend, static=static)
    key, value = new_tokens(3)
    storage.append(key, value)
    keys = [torch.cat(pair) for pair in zip(keys, key.flatten(0, 1), strict=True)]
    values = [torch.cat(pair) for pair in zip(values, value.flatten(0, 1), strict=True)]
    segments = [row * HEADS + head for row in rows for head in range(HEADS)]
    taken = storage.take(torch.tensor(rows))
    assert_holds(taken, [keys[s] for s in segments], [values[s] for s in segments])
    taken.append(*new_tokens(1, rows=len(rows)))
    assert_holds(storage, keys, values)  # the source is another allocation


def test_cropping_forgets_appended_tokens_and_nothing_else() -> None:
    storage, keys, values = filled("grouped")
    storage.append(*new_tokens(3))
    storage.crop(3)
    assert_holds(storage, keys, values)
    with pytest.raises(ValueError, match="only 0 came after the prompt"):
        storage.crop(1)


@decoding_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("hidden", [False, True])
def test_attention_equals_one_softmax_per_query_head(
    backend: Backend, dtype: torch.dtype, tokens: int, hidden: bool
) -> None:
    storage, keys, values = filled(backend)
    key, value = new_tokens(4)
    storage.append(key, value)
    storage = FlatStorage(
        **{**vars(storage), "keys": storage.keys.to(dtype), "values": storage.values.to(dtype)}
    )
    storage.biases = [None if bias is None else bias.to(dtype) for bias in storage.biases]
    keys = [torch.cat(pair).to(dtype) for pair in zip(keys, key.flatten(0, 1), strict=True)]
    values = [torch.cat(pair).to(dtype) for pair in zip(values, value.flatten(0, 1), strict=True)]
    group = 2
    query = torch.randn(ROWS, HEADS * group, tokens, KEY_DIM).to(dtype)
    visible = torch.ones(ROWS, tokens, 4, dtype=torch.bool).tril(4 - tokens)
    if hidden:
        visible[1, :, 0] = False
    given_visible = visible if hidden or tokens > 1 else None
    output = ragged_attention(query, storage, 0.7, given_visible)
    assert output.shape == (ROWS, tokens, HEADS * group, VALUE_DIM)
    for row in range(ROWS):
        for head in range(HEADS * group):
            segment = row * HEADS + head // group
            scores = query[row, head].float() @ keys[segment].float().T * 0.7
            scores[:, -4:].masked_fill_(~visible[row], -torch.inf)
            expected = scores.softmax(-1) @ values[segment].float()
            tolerance = 1e-6 if dtype == torch.float32 else 3e-2
            torch.testing.assert_close(output[row, :, head].float(), expected, rtol=0, atol=tolerance)


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60),
    entry_size=st.sampled_from([2, 48, 256, 100_000]),
    backend=st.sampled_from(get_args(Backend)),
    slack=st.integers(0, 20),
)
def test_every_segment_has_its_own_place(
    lengths: list[int], entry_size: int, backend: Backend, slack: int
) -> None:
    counts = np.array(lengths)
    groups = lay_out(counts, slack, entry_size, backend)
    segments = np.concatenate([group.segments for group in groups])
    assert sorted(segments.tolist()) == list(range(len(lengths)))
    end = 0
    for group in groups:
        assert group.offset == end
        assert group.width == counts[group.segments].max()
        assert group.capacity == group.width + slack
        end = group.end
    if backend == "grouped":
        slots = sum(group.width * len(group.segments) for group in groups)
        assert slots <= counts.sum() * (1 + MAX_PADDING)


def test_groups_follow_the_cost() -> None:
    equal = np.full(64, 30)
    assert len(partition(equal, 256, "grouped")) == 1
    assert len(partition(np.arange(2700, 2706), 48, "grouped")) == 1
    skewed = np.array([4000] * 2 + [100] * 62)
    found = partition(skewed, 256, "grouped")
    assert [len(group) for group in found] == [62, 2]
    # Padding within the limit is still removed where a group costs less than reading it.
    mild = np.array([800] * 32 + [810] * 32)
    assert len(partition(mild, GROUP_OVERHEAD // 300, "grouped")) == 2
    assert len(partition(mild, GROUP_OVERHEAD // 400, "grouped")) == 1
