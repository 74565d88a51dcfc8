"""Every family x method x batch x budget: the engine's main rules."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import DynamicCache

from sparsemm.cache import RaggedCache, model_shape
from sparsemm.methods import FullKV, KVMethod, ModelShape
from tests.cache.reference import Reference, assert_same, generate
from tests.families import FAMILIES, NEEDS_IMAGE, TWO, VIDEO, VISUAL, build, inputs, other_inputs
from tests.methods.cases import EVICTS_AT_THE_PROMPT, METHODS

WINDOW = 8
BELOW = 16

families = pytest.mark.parametrize("family", FAMILIES)
methods = pytest.mark.parametrize("name", METHODS)
# What depends on a family does not depend on the method, and the other way round: every pair of them meets in
# `test_eviction_equals_full_attention_with_the_evicted_masked` alone.
FEW = ("fullkv", "snapkv", "adakv", "sparsemm")
crossed = pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in FAMILIES for name in METHODS if family in TWO or name in FEW],
)
batches = pytest.mark.parametrize("batch", [1, 2])


def shape_of(family: str) -> ModelShape:
    return model_shape(build(family)[0].config.get_text_config())


def method_of(name: str, budget: int | float, family: str) -> KVMethod:
    return METHODS[name](budget, WINDOW, shape_of(family))


def ragged(family: str, method: KVMethod, prompts: Any, **options: Any) -> tuple[Any, RaggedCache]:
    model, _ = build(family)
    cache = RaggedCache(model.config, method, **options)
    return generate(model, prompts, cache), cache


def row_of(result: Any, row: int) -> Any:
    """One row of a generation, as if it were its own."""
    logits = tuple(step[row : row + 1] for step in result.logits)
    return SimpleNamespace(sequences=result.sequences[row : row + 1], logits=logits)


@families
@batches
def test_full_kv_equals_the_stock_cache_to_the_bit(family: str, batch: int) -> None:
    prompts = inputs(family, batch)
    stock, _ = build(family, "sdpa")
    expected = generate(stock, prompts, DynamicCache(config=stock.config))
    result, cache = ragged(family, FullKV(), prompts)
    assert_same(result, expected, tolerance=0)
    valid = prompts["attention_mask"].sum(1).tolist()
    stats = cache.stats()
    assert stats.prompt_tokens == valid
    assert stats.realised_budget == pytest.approx(sum(valid) / batch)
    assert stats.tokens_evicted == 0
    assert stats.kv_bytes == stats.full_kv_bytes


@crossed
@batches
@pytest.mark.parametrize("above", [0, 5])
def test_a_budget_of_the_whole_prompt_changes_no_bit(family: str, name: str, batch: int, above: int) -> None:
    if not above and name in EVICTS_AT_THE_PROMPT:
        above = 1  # the released code may evict where the budget is exactly the prompt
    prompts = inputs(family, batch)
    budget = prompts["input_ids"].shape[1] + above
    result, cache = ragged(family, method_of(name, budget, family), prompts)
    expected, _ = ragged(family, FullKV(), prompts)
    assert_same(result, expected, tolerance=0)
    assert cache.stats().evicted_per_row == [0] * batch


@families
@methods
@batches
def test_eviction_equals_full_attention_with_the_evicted_masked(family: str, name: str, batch: int) -> None:
    prompts = inputs(family, batch)
    method = method_of(name, BELOW, family)
    reference = Reference(method, shape_of(family))
    expected = reference.generate(family, prompts)
    result, cache = ragged(family, method, prompts)
    assert_same(result, expected)
    stats = cache.stats()
    assert stats.realised_per_head.tolist() == reference.counts()
    if method.evicts:
        assert stats.tokens_evicted > 0
        full, _ = ragged(family, FullKV(), prompts)
        assert not torch.allclose(result.logits[1], full.logits[1], atol=1e-3), "nothing was at stake"


@pytest.mark.parametrize(
    ("family", "content"),
    [(family, "text") for family in VISUAL if family not in NEEDS_IMAGE]
    + [(family, "images") for family in VISUAL]
    + [(family, "video") for family in VIDEO],
)
@pytest.mark.parametrize("name", ["fullkv", "snapkv", "adakv", "sparsemm"])
def test_other_contents_equal_the_masked_reference(family: str, content: str, name: str) -> None:
    """No image, several in one prompt, and a short video."""
    prompts = other_inputs(family, content)
    method = method_of(name, BELOW, family)
    expected = Reference(method, shape_of(family)).generate(family, prompts)
    result, cache = ragged(family, method, prompts)
    assert_same(result, expected)
    assert bool(cache.stats().tokens_evicted) == method.evicts


@crossed
def test_a_row_equals_its_run_alone(family: str, name: str) -> None:
    """Also the padded row: its padding is neither kept, nor scored, nor counted."""
    method = method_of(name, BELOW, family)
    together, cache = ragged(family, method, inputs(family, 2))
    assert not bool(inputs(family, 2)["attention_mask"].all())
    for row in range(2):
        alone, own = ragged(family, method, inputs(family, [row]))
        assert_same(row_of(together, row), alone)
        stats, solo = cache.stats(), own.stats()
        assert torch.equal(stats.realised_per_head[:, row], solo.realised_per_head[:, 0])
        assert stats.prompt_tokens[row] == solo.prompt_tokens[0]
        assert stats.evicted_per_row[row] == solo.evicted_per_row[0]
        assert stats.realised_per_row[row] == pytest.approx(solo.realised_budget)


@crossed
@pytest.mark.parametrize("budget", [WINDOW, 0.5])
def test_other_budgets_equal_the_masked_reference(family: str, name: str, budget: int | float) -> None:
    """A budget of nothing but the window, and one that is a share of each row's prompt."""
    prompts = inputs(family, 2)
    method = method_of(name, budget, family)
    expected = Reference(method, shape_of(family)).generate(family, prompts)
    result, _ = ragged(family, method, prompts)
    assert_same(result, expected)


@families
@pytest.mark.parametrize("name", ["snapkv", "adakv", "sparsemm"])
@pytest.mark.parametrize("backend", ["loop", "padded"])
def test_every_backend_gives_the_same_answer(family: str, name: str, backend: str) -> None:
    prompts = inputs(family, 2)
    method = method_of(name, BELOW, family)
    expected, _ = ragged(family, method, prompts)
    result, cache = ragged(family, method, prompts, backend=backend)
    assert_same(result, expected)
    assert cache.settings.backend == backend
