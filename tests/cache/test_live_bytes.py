"""What is alive at the same time, counted for every tensor; and what a cache of real sizes allocates."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from sparsemm.cache import RaggedCache
from sparsemm.cache.stock import cache_argument
from sparsemm.efficiency.contenders import fill, held
from sparsemm.efficiency.shapes import SHAPES, synthetic_scores
from sparsemm.methods import AdaKV, FullKV, KVMethod, PyramidKV, SnapKV, SparseMM
from sparsemm.methods.base import ModelShape
from tests.cache.triton_here import in_the_interpreter

LENGTH, BUDGET, KV_HEADS, HEAD_DIM = 1024, 64, 2, 128
ENTRY = 2 * KV_HEADS * HEAD_DIM * 4
"""Bytes of one token in one layer: K and V, float32."""


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors that operations made and that still live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        known = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if _is_tensor(leaf)}
        for leaf in tree_leaves(given):
            if _is_tensor(leaf):
                storage = leaf.untyped_storage()
                if id(storage) not in self.seen and id(storage) not in known:  # a view makes nothing
                    self.seen.add(id(storage))
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self.gone, id(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return given

    def gone(self, storage: int, size: int) -> None:
        self.seen.discard(storage)
        self.now -= size


def _is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)


def peak(layers: int, method: KVMethod) -> tuple[int, int]:
    """Most bytes alive while a prompt is read, and bytes of the cache afterwards."""
    config = LlamaConfig(
        hidden_size=512,
        intermediate_size=512,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        vocab_size=64,
    )
    config._attn_implementation = "sparsemm"
    model: Any = LlamaForCausalLM(config).eval()
    cache = RaggedCache(config, method, max_new_tokens=1)
    with torch.no_grad(), LiveBytes() as live:
        model(input_ids=torch.randint(64, (1, LENGTH)), **cache_argument(cache), logits_to_keep=1)
        return live.peak, cache.stats().kv_bytes


@pytest.mark.parametrize("make", [SnapKV, AdaKV, PyramidKV])
def test_a_further_layer_adds_only_what_it_keeps_to_the_peak_of_the_prompt(
    make: Callable[[int], KVMethod],
) -> None:
    few, _ = peak(2, make(BUDGET))
    many, kept = peak(6, make(BUDGET))
    assert many - few <= 1.02 * kept  # of all six: the first two are in `few`
    assert kept < 6 * LENGTH * ENTRY / 8
    # The same count sees FullKV's layers whole.
    full = peak(6, FullKV())[0] - peak(2, FullKV())[0]
    assert full >= 4 * LENGTH * ENTRY
    assert many - few < full / 8


@pytest.mark.parametrize("backend", ["loop", "grouped", pytest.param("triton", marks=in_the_interpreter)])
@pytest.mark.parametrize("method", ["snapkv", "pyramidkv", "adakv", "sparsemm"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_allocated_beside_slack_is_what_is_kept(shape: str, method: str, backend: Any) -> None:
    config = SHAPES[shape].config(2, 2048)
    config._attn_implementation = "sparsemm"
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = config.hidden_size // heads
    scores = synthetic_scores(ModelShape(2, heads, kv_heads, head_dim))
    made: dict[str, Callable[[], KVMethod]] = {
        "snapkv": lambda: SnapKV(256),
        "pyramidkv": lambda: PyramidKV(256),
        "adakv": lambda: AdaKV(256),
        "sparsemm": lambda: SparseMM(256, scores),
    }
    cache = RaggedCache(config, made[method](), max_new_tokens=64, backend=backend)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, heads, 32, head_dim, generator=generator)
    key = torch.randn(1, kv_heads, 2048, head_dim, generator=generator)
    fill(cache, query, key, key)
    found = held(cache, 2 * head_dim * 4)
    assert found.kept_bytes == 2 * 256 * kv_heads * 2 * head_dim * 4
    assert found.kept_bytes <= found.kv_bytes - found.slack_bytes <= 1.02 * found.kept_bytes
