"""What torch's and flash-attn's functions are given, against the obvious function of the same signature.

Neither runs on a CPU: here stands in their place what their documentation says that they do.
"""

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsemm.cache import RaggedCache, varlen
from sparsemm.cache.accounting import cache_bytes
from sparsemm.cache.decode import ragged_attention
from sparsemm.cache.storage import FlatStorage
from tests.cache.reference import assert_same, generate
from tests.cache.test_matrix import BELOW, method_of, shape_of
from tests.families import build, inputs

BACKENDS: tuple[Any, ...] = ("torch_varlen", "flash_attn")
GROUPED: Any = "grouped"
backends = pytest.mark.parametrize("backend", BACKENDS)


def obvious(
    query: Tensor, key: Tensor, value: Tensor, edges_q: Tensor, edges_k: Tensor, max_q: int, max_k: int,
    scaling: float, causal: bool,
) -> Tensor:  # fmt: skip
    """One softmax for each sequence and head, in float64; causality is aligned to the end."""
    for edges, states in ((edges_q, query), (edges_k, key)):
        assert edges.dtype == torch.int32
        assert edges[0] == 0
        assert edges[-1] == len(states)
        assert edges.diff().min() >= 0
    lengths_q, lengths_k = edges_q.diff(), edges_k.diff()
    assert len(lengths_q) == len(lengths_k)
    assert lengths_q.max() == max_q
    assert lengths_k[lengths_q > 0].max() == max_k
    output = torch.full((*query.shape[:2], value.shape[2]), torch.nan, dtype=torch.float64)
    for (start, end), (first, last) in zip(
        *(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True) for edges in (edges_q, edges_k)),
        strict=True,
    ):
        for head in range(query.shape[1]):
            other = head * key.shape[1] // query.shape[1]
            scores = query[start:end, head].double() @ key[first:last, other].double().T * scaling
            if causal:
                hidden = torch.ones_like(scores, dtype=torch.bool).triu(last - first - (end - start) + 1)
                scores = scores.masked_fill(hidden, -torch.inf)
            output[start:end, head] = scores.softmax(-1) @ value[first:last, other].double()
    return output.to(query.dtype)


def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, max_seqlen_q: int,
    max_seqlen_k: int, *, softmax_scale: float, causal: bool,
) -> Tensor:  # fmt: skip
    sequences = len(cu_seqlens_q) - 1
    # It swaps heads for queries there, and then takes one query of every sequence for granted.
    assert not (max_seqlen_q == 1 and q.shape[1] > k.shape[1]) or len(q) == sequences
    return obvious(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal)


def varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    assert window_size in ((-1, -1), (-1, 0))
    assert enable_gqa or query.shape[1] == key.shape[1]
    return obvious(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale, causal=window_size == (-1, 0))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {
        "flash_attn": SimpleNamespace(flash_attn_varlen_func=flash_attn_varlen_func),
        "torch.nn.attention.varlen": SimpleNamespace(varlen_attn=varlen_attn),
    }
    monkeypatch.setattr(varlen, "import_module", lambda name: modules[name])


@backends
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.usefixtures("stand_in")
def test_segments_are_read_where_they_lie(backend: Any, group: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    kept = torch.arange(40) < torch.tensor([[3, 40], [1, 17]])[..., None]
    keys, values = torch.randn(2, 2, 2, 40, 8, generator=generator)
    storages = [FlatStorage.from_dense(keys, values, kept, 9, name) for name in (backend, GROUPED)]
    for count in (1, tokens, 6):  # the last does not fit the slack
        new = torch.randn(2, 2, 2, count, 8, generator=generator)
        query = torch.randn(2, 2 * group, count, 8, generator=generator)
        total = int(storages[0].appended) + count
        visible = None
        if count > 1:
            visible = torch.ones(2, count, total, dtype=torch.bool).tril(total - count)
        mine, expected = (ragged_attention(query, one, 0.3, visible, (new[0], new[1])) for one in storages)
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)
    assert len(storages[0].keys) == kept.sum() + 4 * storages[0].slack  # no padding


@backends
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.usefixtures("stand_in")
def test_whole_generations_are_those_of_the_grouped_backend(
    backend: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = build("llava_next")
    prompts = inputs("llava_next", batch)
    method = method_of("adakv", BELOW, "llava_next")
    expected = generate(model, prompts, RaggedCache(model.config, method))
    for check in ("ragged_cache.check_backend", "layer.check_backend_input"):
        monkeypatch.setattr(f"sparsemm.cache.{check}", lambda *given: None)
    cache = RaggedCache(model.config, method, backend=backend, max_new_tokens=9)
    assert_same(generate(model, prompts, cache), expected)
    stats = cache.stats()
    assert stats.tokens_evicted > 0
    computed = cache_bytes(
        stats.realised_per_head,
        torch.tensor(stats.prompt_tokens),
        padded_length=prompts["input_ids"].shape[1],
        appended=5,
        max_new_tokens=9,
        shape=shape_of("llava_next"),
        dtype=torch.float32,
        backend=backend,
    )
    assert computed == (stats.kv_bytes - stats.slack_bytes, stats.full_kv_bytes)


@backends
@pytest.mark.usefixtures("stand_in")
def test_hidden_tokens_are_refused(backend: Any) -> None:
    entries = torch.randn(1, 1, 5, 8)
    for count in (1, 3):
        storage = FlatStorage.from_dense(entries, entries, torch.ones(1, 1, 5, dtype=torch.bool), 9, backend)
        storage.append(entries[:, :, :2], entries[:, :, :2])
        visible = torch.ones(1, count, 2 + count, dtype=torch.bool).tril(2)
        visible[:, :, 0] = False
        new = entries[:, :, :count]
        with pytest.raises(ValueError, match="cannot hide the padding of a later turn: take 'triton'"):
            ragged_attention(new, storage, 0.3, visible, (new, new))


@backends
def test_without_a_gpu_or_the_package_it_is_refused(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build("llama")
    method = method_of("snapkv", BELOW, "llama")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"backend '{backend}' needs a GPU, and there is none: take 'gro"):
        RaggedCache(model.config, method, backend=backend)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(varlen, "import_module", absent)
    needed = {"torch_varlen": "a newer torch", "flash_attn": "the package flash-attn"}[backend]
    with pytest.raises(ValueError, match=rf"needs {needed} \(No module named .*\): install it, or take"):
        RaggedCache(model.config, method, backend=backend)
    old = SimpleNamespace(varlen_attn=lambda query, scale: None, flash_attn_varlen_func=None)
    monkeypatch.setattr(varlen, "import_module", lambda name: old)
    if backend == "torch_varlen":
        with pytest.raises(ValueError, match=r"\(its varlen_attn has no enable_gqa and no window_size\)"):
            RaggedCache(model.config, method, backend=backend)
        return
    cache = RaggedCache(model.config, method, backend=backend)
    with pytest.raises(ValueError, match="needs the model on a GPU, it is on cpu: move it"):
        generate(model, inputs("llama", 1), cache)
    key = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    with pytest.raises(ValueError, match="needs float16 or bfloat16, the model has float32: convert it"):
        importlib.import_module("sparsemm.cache.checks").check_backend_input(backend, key)


def library(backend: str) -> str:
    """Why a library cannot be tried here; empty: it can."""
    if not torch.cuda.is_available():
        return "there is no GPU"
    try:
        varlen.varlen_function(backend)  # pyright: ignore[reportArgumentType]
    except ImportError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=pytest.mark.skipif(bool(library(name)), reason=library(name)))
        for name in BACKENDS
    ],
)
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("tokens", [1, 5])
def test_the_library_itself(backend: Any, group: int, tokens: int) -> None:
    """On a GPU, against the grouped backend in float32."""
    generator = torch.Generator().manual_seed(0)
    kept = torch.arange(300) < torch.tensor([[3, 300], [1, 117]])[..., None]
    keys, values = torch.randn(2, 2, 2, 300, 64, generator=generator).bfloat16()
    new = torch.randn(2, 2, 2, tokens, 64, generator=generator).bfloat16()
    query = torch.randn(2, 2 * group, tokens, 64, generator=generator).bfloat16()
    visible = torch.ones(2, tokens, tokens, dtype=torch.bool).tril() if tokens > 1 else None
    found = []
    for name, device, dtype in ((backend, "cuda", torch.bfloat16), (GROUPED, "cpu", torch.float32)):
        held = keys.to(device, dtype), values.to(device, dtype), kept.to(device)
        storage = FlatStorage.from_dense(*held, 9, name)
        seen = None if visible is None else visible.to(device)
        pair = new[0].to(device, dtype), new[1].to(device, dtype)
        found.append(ragged_attention(query.to(device, dtype), storage, 0.1, seen, pair).cpu().float())
    torch.testing.assert_close(*found, rtol=0, atol=2e-2)
