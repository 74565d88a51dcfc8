"""What a cache takes is measured on allocations: of the process's tensors, not of a formula."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from sparsemm.cache import RaggedCache
from sparsemm.methods import FullKV, KVMethod, SnapKV
from tests.cache.reference import generate
from tests.cache.test_matrix import BELOW, WINDOW, method_of
from tests.families import TWO, build, inputs

families = pytest.mark.parametrize("family", TWO)


def allocated(tensors: list[Tensor]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def alive(layer: object) -> list[Tensor]:
    """Every tensor that can be reached from a cache layer, save the counts that it reports."""
    found: list[Tensor] = []
    queue: list[Any] = [
        held for name, held in vars(layer).items() if name not in ("valid", "kept", "question")
    ]
    visited: set[int] = set()
    while queue:
        thing = queue.pop()
        if id(thing) in visited or type(thing).__name__ in ("Settings", "type", "module", "function"):
            continue
        visited.add(id(thing))
        if isinstance(thing, Tensor):
            found.append(thing)
        else:
            queue.extend(gc.get_referents(thing))
    return found


@families
@pytest.mark.parametrize("name", ["snapkv", "pyramidkv", "adakv", "sparsemm"])
def test_stored_bytes_shrink_to_what_is_kept(family: str, name: str) -> None:
    prompts = inputs(family, 2, letters=120)
    model, _ = build(family)
    stock, _ = build(family, "sdpa")
    full = DynamicCache(config=stock.config)
    generate(stock, prompts, full, tokens=1)
    full_bytes = sum(allocated(alive(layer)) for layer in full.layers)
    cache = RaggedCache(model.config, method_of(name, BELOW, family), max_new_tokens=1)
    generate(model, prompts, cache, tokens=1)
    stats = cache.stats()
    assert stats.full_kv_bytes == full_bytes
    assert stats.kv_bytes == sum(allocated(alive(layer)) for layer in cache.layers)
    entries = int(stats.realised_per_head.sum())
    entry = 2 * 8 * 4  # K and V of 8 float32 numbers
    # One slot of slack, at most 2% of padding, and the lists of where things are.
    segments = stats.realised_per_head.numel()
    assert entries * entry <= stats.kv_bytes <= (entries * 1.02 + segments) * entry * 1.1 + segments * 24
    assert stats.kv_bytes < full_bytes / 4


@families
def test_nothing_evicted_takes_what_the_stock_cache_takes(family: str) -> None:
    prompts = inputs(family, 2)
    model, _ = build(family)
    cache = RaggedCache(model.config, FullKV())
    generate(model, prompts, cache)
    assert cache.stats().kv_bytes == cache.stats().full_kv_bytes
    assert cache.stats().kv_bytes == sum(allocated(alive(layer)) for layer in cache.layers)


class Watching(SnapKV):
    """SnapKV that notes, whenever a layer is scored, whether earlier layers' full keys still live."""

    seen: list[weakref.ref[Tensor]]
    living: list[int]

    def token_scores(self, query: Tensor, key: Tensor, scaling: float | None, valid: Tensor | None) -> Tensor:
        self.living.append(sum(reference() is not None for reference in self.seen))
        self.seen.append(weakref.ref(key))
        return super().token_scores(query, key, scaling, valid)


@families
def test_a_layers_prompt_is_freed_before_the_next_layer_runs(family: str) -> None:
    model, _ = build(family)
    prompts = inputs(family, 2)
    method = Watching(BELOW, window=WINDOW)
    object.__setattr__(method, "seen", [])
    object.__setattr__(method, "living", [])
    cache = RaggedCache(model.config, method)
    generate(model, prompts, cache, tokens=2)
    assert method.living == [0] * len(cache.layers)
    assert all(reference() is None for reference in method.seen)
    gc.collect()
    length = prompts["input_ids"].shape[1]
    full = [
        thing
        for thing in gc.get_objects()
        if issubclass(type(thing), Tensor) and thing.ndim == 4 and thing.shape[:3] == (2, 2, length)
    ]
    assert full == []


def test_a_known_number_of_new_tokens_needs_no_more_room() -> None:
    prompts = inputs("qwen2_vl", 1)
    model, _ = build("qwen2_vl")
    method: KVMethod = SnapKV(BELOW, window=WINDOW)
    cache = RaggedCache(model.config, method, max_new_tokens=40)
    generate(model, prompts, cache, tokens=1)
    before = cache.stats().kv_bytes
    generate_more = RaggedCache(model.config, method, max_new_tokens=40)
    generate(model, prompts, generate_more, tokens=40)
    assert generate_more.stats().kv_bytes == before
    grown = RaggedCache(model.config, method)
    generate(model, prompts, grown, tokens=40)
    assert grown.stats().kv_bytes < 2 * before
    # what is not slack is the same, however much room was made; 39 tokens were appended after the first
    used = [
        stats.kv_bytes - stats.slack_bytes for stats in (cache.stats(), generate_more.stats(), grown.stats())
    ]
    assert used[1] - used[0] == 39 * len(cache.layers) * 2 * 2 * 8 * 4  # KV heads, K and V, float32 numbers
    assert used[1] == used[2]
    assert torch.equal(grown.stats().realised_per_head, cache.stats().realised_per_head)
