"""Fan-out against separate runs with real eviction: the same tokens, the same entries kept."""

from typing import Any

import pytest
import torch

from sparsemm.cache import Fanout, RaggedCache, fan_out
from sparsemm.methods import FullKV, KVMethod, SnapKV
from tests.cache.test_matrix import families, method_of
from tests.families import END, SPECIAL, build, inputs
from tests.methods.cases import METHODS

WINDOW = 8
BUDGETS = (WINDOW, 12, 16, 0.5, 25, 64)
TOKENS = 8


def grid(family: str) -> list[KVMethod]:
    return [method_of(name, budget, family) for name in METHODS for budget in BUDGETS]


def separately(family: str, prompts: Any, method: KVMethod, **options: Any) -> tuple[list[list[int]], Any]:
    """Tokens of each row up to its end, and the cache's statistics, with real eviction."""
    model, _ = build(family)
    cache = RaggedCache(model.config, method, **options)
    new = model.generate(**prompts, past_key_values=cache, max_new_tokens=TOKENS, do_sample=False)  # pyright: ignore
    rows = new[:, prompts["input_ids"].shape[1] :].tolist()
    end = model.generation_config.eos_token_id
    return [row[: row.index(end) + 1] if end in row else row for row in rows], cache.stats()


def assert_equal(family: str, prompts: Any, methods: list[KVMethod], result: Fanout, **options: Any) -> None:
    for number, method in enumerate(methods):
        tokens, stats = separately(family, prompts, method, **options)
        assert result.tokens[number] == tokens, (number, method)
        assert torch.equal(result.kept[number], stats.realised_per_head)
        assert result.prompt_tokens == stats.prompt_tokens


@pytest.fixture
def ending():
    """Let rows end at an ordinary letter, so that they leave at different steps."""
    changed = []

    def end_at(family: str, token: int) -> None:
        model, _ = build(family)
        changed.append(model)
        model.generation_config.eos_token_id = token

    yield end_at
    for model in changed:
        model.generation_config.eos_token_id = None


@families
@pytest.mark.parametrize("batch", [1, 3])
def test_tokens_equal_separate_runs_with_real_eviction(family: str, batch: int) -> None:
    prompts, methods = inputs(family, batch), grid(family)
    result = fan_out(build(family)[0], prompts, methods, max_new_tokens=TOKENS)
    assert_equal(family, prompts, methods, result)
    different = {tuple(tokens[0]) for tokens in result.tokens}
    assert len(different) > 5, "nothing was at stake"
