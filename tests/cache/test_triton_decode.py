"""The Triton kernels against one softmax per head in float64: in the interpreter, or on a GPU for real."""

import copy
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from sparsemm.cache import RaggedCache
from sparsemm.cache.checks import default_backend
from sparsemm.cache.decode import ragged_attention
from sparsemm.cache.storage import FlatStorage
from sparsemm.cache.triton_decode import ragged_decode
from sparsemm.efficiency.gpu import obvious
from sparsemm.efficiency.gpu.obvious import random_query
from tests.cache.reference import assert_same, generate
from tests.cache.test_life import converse, piece
from tests.cache.test_matrix import BELOW, method_of
from tests.cache.triton_here import DEVICE, in_the_interpreter, needs_triton
from tests.families import TWO, build, inputs

SCALING = 0.3
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


def storage_of(
    lengths: list[list[int]],
    head_dim: int,
    value_dim: int,
    dtype: torch.dtype,
    slack: int = 5,
    seed: int = 0,
    static: bool = False,
) -> FlatStorage:
    return obvious.storage_of(
        lengths, head_dim, value_dim, dtype, DEVICE, slack=slack, seed=seed, static=static
    )


def error_of(storage: FlatStorage, query: Tensor, visible: Tensor | None = None) -> float:
    return obvious.error_of(storage, query, SCALING, visible)


@needs_triton
@given(
    seed=st.integers(0, 2**31),
    lengths=st.integers(1, 3).flatmap(
        lambda heads: st.lists(
            st.lists(
                st.sampled_from([1, 2, 63, 64, 65]) | st.integers(1, 200), min_size=heads, max_size=heads
            ),
            min_size=1,
            max_size=2,
        )
    ),
    head_dim=st.sampled_from([24, 32, 64, 80, 96, 128, 256]),
    value_dim=st.none() | st.sampled_from([16, 40]),
    group=st.sampled_from([1, 2, 4, 7]),
    dtype=st.sampled_from([*TOLERANCE]),
)
@settings(max_examples=40)
def test_every_shape_equals_the_obvious_reference(
    seed: int, lengths: list[list[int]], head_dim: int, value_dim: int | None, group: int, dtype: torch.dtype
) -> None:
    storage = storage_of(lengths, head_dim, value_dim or head_dim, dtype, seed=seed)
    query = random_query(storage, len(lengths), group, 1, seed + 1)
    assert error_of(storage, query) < TOLERANCE[dtype]


@needs_triton
@pytest.mark.parametrize("dtype", [*TOLERANCE])
def test_very_unequal_lengths(dtype: torch.dtype) -> None:
    """Also a head so long that it is merged in several steps."""
    storage = storage_of([[1, 3000, 7, 64]], 32, 32, dtype)
    assert error_of(storage, random_query(storage, 1, 2, 1)) < TOLERANCE[dtype]


@needs_triton
def test_a_chunk_larger_than_a_tile() -> None:
    """Wide entries fill a tile with fewer of them than a chunk has, so that a chunk takes several."""
    storage = storage_of([[100, 64, 17]], 256, 256, torch.float32)
    assert error_of(storage, random_query(storage, 1, 2, 1)) < 1e-5


@needs_triton
def test_a_head_of_a_hundred_thousand_entries() -> None:
    storage = storage_of([[1, 100_000]], 32, 32, torch.float32)
    assert error_of(storage, random_query(storage, 1, 1, 1)) < 1e-5


@needs_triton
@pytest.mark.parametrize("large", [1e4, -1e4])
def test_large_scores_do_not_overflow(large: float) -> None:
    """Softmax is that of the scores less their peak, in every chunk and in the merge."""
    storage = storage_of([[150, 3]], 32, 32, torch.float32)
    query = random_query(storage, 1, 2, 1)
    storage.keys[int(storage.starts[0]) + 70] = query[0, 0, 0] * large
    output = ragged_attention(query, storage, SCALING)
    assert output.isfinite().all()
    if large > 0:
        torch.testing.assert_close(output[0, 0, 0], storage.values[int(storage.starts[0]) + 70])


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("group", [1, 5])
def test_queries_of_a_later_turn_see_what_the_mask_says(dtype: torch.dtype, group: int) -> None:
    """One row's turn is padded; the rows of a group of 5 need several tiles; appended tokens fill chunks."""
    tokens, appended = 8, 80
    storage = storage_of([[1, 70], [130, 60]], 24, 24, dtype, slack=100)
    generator = torch.Generator().manual_seed(2)
    new = torch.randn(2, storage.heads, appended, 24, generator=generator).to(DEVICE, dtype)
    storage.append(new, new.flip(2))
    visible = torch.ones(2, tokens, appended, dtype=torch.bool).tril(appended - tokens)
    visible[1, :, -tokens : -tokens + 3] = False
    visible[0, 2] = False  # nothing but the kept entries
    query = random_query(storage, 2, group, tokens)
    assert error_of(storage, query, visible.to(DEVICE)) < TOLERANCE[dtype]
    assert error_of(storage, query) < TOLERANCE[dtype]


@needs_triton
@given(
    seed=st.integers(0, 2**31),
    lengths=st.lists(
        st.lists(st.sampled_from([1, 62, 63, 64, 65, 130]), min_size=2, max_size=2), min_size=1, max_size=2
    ),
    before=st.sampled_from([0, 1, 2, 66]),
    new=st.sampled_from([1, 1, 2, 17]),
    slack=st.sampled_from([1, 4, 90]),
    dims=st.sampled_from([(32, 32), (24, 40)]),
    hidden=st.booleans(),
    static=st.booleans(),
    dtype=st.sampled_from([*TOLERANCE]),
)
@settings(max_examples=15)
def test_new_entries_are_written_and_seen_in_the_same_launch(
    seed: int,
    lengths: list[list[int]],
    before: int,
    new: int,
    slack: int,
    dims: tuple[int, int],
    hidden: bool,
    static: bool,
    dtype: torch.dtype,
) -> None:
    """As if appended before; and nothing else in the storage changes."""
    if static:
        slack = before + new + 3
    generator = torch.Generator().manual_seed(seed)

    def drawn(tokens: int) -> tuple[Tensor, Tensor]:
        shape = (len(lengths), 2, tokens)
        one, other = (torch.randn(*shape, dim, generator=generator).to(DEVICE, dtype) for dim in dims)
        return one, other

    storage, expected = (storage_of(lengths, *dims, dtype, slack, seed, static=static) for _ in range(2))
    if before:
        first = drawn(before)
        storage.append(*first)
        expected.append(*first)
    last = drawn(new)
    query = random_query(storage, len(lengths), 1 if new > 1 else 3, new, seed)
    room = slack if static else before + new
    visible = torch.ones(len(lengths), new, room, dtype=torch.bool).tril(before)
    if hidden:
        visible[0, :, : (before + new) // 2] = False
    given_visible = visible.to(DEVICE) if hidden or static or new > 1 else None
    with obvious.poisoned_memory(DEVICE):
        output = ragged_attention(query, storage, SCALING, given_visible, last)
    expected.append(*last)
    assert storage.lengths.tolist() == expected.lengths.tolist()
    after = ragged_attention(query, expected, SCALING, given_visible)
    torch.testing.assert_close(output, after, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for mine, theirs in ((storage.keys, expected.keys), (storage.values, expected.values)):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


@needs_triton
def test_tokens_are_seen_from_the_step_that_appends_them() -> None:
    """Also past the slack, where segments move, and after some were taken back."""
    storage = storage_of([[60, 1, 130]], 32, 32, torch.float32, slack=3)
    generator = torch.Generator().manual_seed(2)
    for step in range(9):
        new = torch.randn(1, 3, 1, 32, generator=generator).to(DEVICE)
        storage.append(new, new * 2)
        assert error_of(storage, random_query(storage, 1, 2, 1, step)) < 1e-5
    storage.crop(4)
    assert error_of(storage, random_query(storage, 1, 2, 1)) < 1e-5


def test_the_layout_has_no_padding() -> None:
    counts = torch.tensor([[3, 50], [200, 1]])
    kept = torch.arange(200) < counts[..., None]
    entries = torch.randn(2, 2, 200, 8)
    storage = FlatStorage.from_dense(entries, entries, kept, 10, "triton")
    assert len(storage.keys) == counts.sum() + 4 * 10
    assert storage.slack_bytes() == 4 * 10 * 2 * 8 * 4


def arguments(storage: FlatStorage, group: int) -> tuple[Any, ...]:
    rows = random_query(storage, 1, group, 1).reshape(storage.heads, group, -1)
    assert storage.chunks is not None
    size, starts, listed, firsts = storage.chunks
    new = (torch.ones(storage.heads, 2, flat.shape[1]).to(flat) for flat in (storage.keys, storage.values))
    places = (starts, storage.stops, None, storage.counter, listed, firsts)
    return rows, *new, storage.keys, storage.values, *places, size, SCALING, None


@needs_triton
def test_the_operator_is_described_as_it_is() -> None:
    """Its fake has the real one's shapes, and it changes what it says: torch.compile can take it."""
    storage = storage_of([[9, 70]], 24, 16, torch.float32)
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(ragged_decode, arguments(storage, 3), test_utils=tests)


@needs_triton
def test_dynamo_takes_the_operator_whole() -> None:
    storage = storage_of([[9, 70]], 24, 16, torch.float32)
    counter = CompileCounter()
    compiled = torch.compile(
        lambda *given: ragged_decode(*given) * 2, backend=counter, fullgraph=True, dynamic=False
    )
    given_arguments = arguments(storage, 3)
    torch.testing.assert_close(compiled(*given_arguments), ragged_decode(*given_arguments) * 2)
    assert counter.frame_count == 1


@needs_triton
@pytest.mark.parametrize("family", TWO)
@pytest.mark.parametrize("batch", [1, 2])
def test_whole_generations_are_those_of_the_grouped_backend(family: str, batch: int) -> None:
    model = build(family)[0]
    prompts = inputs(family, batch)
    if DEVICE.type != "cpu":
        model, prompts = copy.deepcopy(model).to(DEVICE), prompts.to(DEVICE)  # pyright: ignore
    assert batch == 1 or not bool(prompts["attention_mask"].all())
    results = []
    for backend in ("grouped", "triton"):
        cache = RaggedCache(model.config, method_of("sparsemm", BELOW, family), backend=backend)
        results.append(generate(model, prompts, cache))
        assert cache.stats().tokens_evicted > 0
    assert_same(*results, tolerance=1e-5 if DEVICE.type == "cpu" else 1e-3)


@in_the_interpreter
def test_turns_are_those_of_the_grouped_backend() -> None:
    family = "qwen2_vl"
    prompts = inputs(family, 2)
    pieces = [piece(2, count, seed) for seed, count in enumerate([1, 5, 1])]
    pieces[1][1][0, :2] = 0  # the turn of the first row is shorter: left-padded
    model, _ = build(family)
    method = method_of("adakv", BELOW, family)
    expected, result = (
        converse(model, RaggedCache(model.config, method, backend=backend), prompts, pieces)
        for backend in ("grouped", "triton")
    )
    for (_, valid), mine, theirs in zip(pieces, result[1:], expected[1:], strict=True):
        torch.testing.assert_close(mine[valid.bool()], theirs[valid.bool()], rtol=0, atol=1e-5)


def test_without_a_gpu_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model, _ = build("llama")
    with pytest.raises(ValueError, match="backend 'triton' needs a GPU, and there is none: take 'grouped'"):
        RaggedCache(model.config, method_of("snapkv", BELOW, "llama"), backend="triton")
    # A GPU there may be, and the model elsewhere.
    monkeypatch.setattr("sparsemm.cache.ragged_cache.check_backend", lambda backend: None)
    cache = RaggedCache(model.config, method_of("snapkv", BELOW, "llama"), backend="triton")
    with pytest.raises(
        ValueError, match="needs the model on a GPU, it is on cpu: move it, or take 'grouped'"
    ):
        generate(model, inputs("llama", 1), cache)


def test_without_triton_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "sparsemm.cache.triton_kernels", raising=False)
    model, _ = build("llama")
    with pytest.raises(ValueError, match=r"backend 'triton' needs the package triton \(.*\): install it, or"):
        RaggedCache(model.config, method_of("snapkv", BELOW, "llama"), backend="triton")


COMPILE = """
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sparsemm.cache.triton_decode import PART_TILE, STAGES, WARPS, tile_sizes
from sparsemm.cache.triton_kernels import attend_chunk, merge_chunks

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
OPERANDS = {"bf16": tl.bfloat16, "fp16": tl.float16, "fp32": tl.float32}


def built(kernel, dtype, head_dim, rows, capability, hidden, alone=False, size=1024):
    types = {
        **dict.fromkeys(("query", "new_keys", "new_values", "keys", "values", "merged"), f"*{dtype}"),
        **dict.fromkeys(("starts", "stops", "counters"), "*i64"),
        **dict.fromkeys(("chunks", "firsts"), "*i32"),
        **{"partial": f"*{dtype}" if alone else "*fp32", "sums": "*fp32"},
        **{"visible": "*u8", "scaling": "fp32"},
        **dict.fromkeys(("appended", "size", "rows", "new", "tokens", "columns", "heads"), "i32"),
    }
    known = tile_sizes(head_dim, head_dim, rows, BYTES[dtype], size) | {"PART_TILE": PART_TILE}
    known |= {"HEAD_DIM": head_dim, "VALUE_DIM": head_dim, "OPERAND": OPERANDS[dtype]}
    constants = {name: known[name] for name in kernel.arg_names if name in known}
    without = {"visible": not hidden, "sums": alone}
    constants |= {name: None for name, left_out in without.items() if left_out and name in kernel.arg_names}
    types = {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names}
    return triton.compile(
        ASTSource(fn=kernel, signature=types, constexprs=constants),
        target=GPUTarget("cuda", capability, 32),
        options={"num_stages": STAGES, "num_warps": WARPS},
    )


for case in (
    (attend_chunk, "bf16", 80, 7, 90, False),
    (attend_chunk, "bf16", 128, 4, 90, True),
    (attend_chunk, "bf16", 128, 4, 90, True, True),
    (attend_chunk, "fp16", 128, 32, 80, True),
    (attend_chunk, "fp32", 256, 32, 80, True),
    (merge_chunks, "bf16", 128, 4, 90, False),
):
    compiled = built(*case)
    assert compiled.asm["cubin"]
    print(case[1:], compiled.metadata.shared)
    assert compiled.metadata.shared <= 99 * 1024  # what a block may have on GPUs for desks
print("compiled")
"""


@needs_triton
def test_the_kernels_compile_and_fit_for_gpus_that_are_not_here(tmp_path: Any) -> None:
    """The interpreter takes more than the compiler does, and has memory without end."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.endswith("compiled\n"), done.stderr


def test_the_kernel_is_what_a_gpu_takes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_backend(torch.device("cpu")) == "grouped"
    assert default_backend(torch.device("cuda")) == ("grouped" if find_spec("triton") is None else "triton")
    monkeypatch.setattr("sparsemm.cache.checks.find_spec", lambda name: None)
    assert default_backend(torch.device("cuda")) == "grouped"
