"""Computed bytes are those that a `RaggedCache` really allocates."""

import pytest
import torch

from sparsemm.cache import RaggedCache
from sparsemm.cache.accounting import cache_bytes
from sparsemm.cache.layout import Backend
from sparsemm.cache.stock import sliding_windows
from tests.cache.reference import generate
from tests.cache.test_matrix import method_of, methods, shape_of
from tests.cache.triton_here import in_the_interpreter
from tests.families import TWO, build, inputs

TOKENS = 5


@pytest.mark.parametrize("family", [*TWO, "gemma3"])
@methods
@pytest.mark.parametrize(("batch", "budget"), [(1, 8), (1, 14), (3, 14), (3, 0.5), (3, 25), (3, 64)])
def test_bytes_are_the_measured_ones(family: str, name: str, batch: int, budget: int | float) -> None:
    check(family, name, batch, budget, "grouped")


@in_the_interpreter
@pytest.mark.parametrize("batch", [1, 2])
def test_bytes_are_the_measured_ones_with_a_work_list(batch: int) -> None:
    check("llava_next", "adakv", batch, 14, "triton")


def check(family: str, name: str, batch: int, budget: int | float, backend: Backend) -> None:
    model, _ = build(family)
    prompts = inputs(family, batch)
    method = method_of(name, budget, family)
    cache = RaggedCache(model.config, method, max_new_tokens=9, backend=backend)
    generate(model, prompts, cache, tokens=TOKENS)
    stats = cache.stats()
    computed = cache_bytes(
        stats.realised_per_head,
        torch.tensor(stats.prompt_tokens),
        padded_length=prompts["input_ids"].shape[1],
        appended=TOKENS - 1,
        max_new_tokens=9,
        shape=shape_of(family),
        dtype=torch.float32,
        windows=sliding_windows(model.config.get_text_config()),
        backend=backend,
    )
    assert computed.kept == stats.kv_bytes - stats.slack_bytes
    assert computed.full == stats.full_kv_bytes
