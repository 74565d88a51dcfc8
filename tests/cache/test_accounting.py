"""Computed bytes are those that a `RaggedCache` really allocates."""

import pytest
import torch

from sparsemm.cache import RaggedCache
from sparsemm.cache.accounting import cache_bytes
from tests.cache.reference import generate
from tests.cache.test_matrix import families, method_of, methods, shape_of
from tests.families import build, inputs


@families
@methods
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("budget", [8, 14, 0.5, 25, 64])
def test_bytes_are_the_measured_ones(family: str, name: str, batch: int, budget: int | float) -> None:
    model, _ = build(family)
    prompts = inputs(family, batch)
    cache = RaggedCache(model.config, method_of(name, budget, family), max_new_tokens=9)
    generate(model, prompts, cache, tokens=5)
    stats = cache.stats()
    computed = cache_bytes(
        stats.realised_per_head,
        torch.tensor(stats.prompt_tokens),
        padded_length=prompts["input_ids"].shape[1],
        appended=4,
        max_new_tokens=9,
        shape=shape_of(family),
        dtype=torch.float32,
    )
    assert computed.kept == stats.kv_bytes - stats.slack_bytes
    assert computed.full == stats.full_kv_bytes
