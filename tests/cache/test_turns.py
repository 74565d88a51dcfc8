"""A turn, or a question of several, right behind a prompt that was answered by one token, or not at all."""

import copy
from typing import Any

import pytest
import torch

from sparsemm.cache import RaggedCache
from sparsemm.cache.stock import CACHE_ARGUMENT, cache_argument
from sparsemm.methods import FullKV, KVMethod, SnapKV
from tests.cache.reference import NAME, Reference, assert_same, generate
from tests.cache.test_life import piece
from tests.cache.test_matrix import BELOW, WINDOW, method_of, shape_of
from tests.families import TWO, build, inputs

ROOM = 24

families = pytest.mark.parametrize("family", [*TWO, "gemma3", "llama"])
methods = pytest.mark.parametrize("name", ["fullkv", "snapkv", "adakv", "sparsemm"])


def longer(prompts: Any, before: torch.Tensor, turn: torch.Tensor) -> dict[str, torch.Tensor]:
    """What `generate` is given for another turn: all ids so far, the turn's, and a mask of both."""
    ids = torch.cat([before, turn], dim=1)
    mask = prompts["attention_mask"]
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([mask, mask.new_ones(len(mask), ids.shape[1] - mask.shape[1])], dim=1),
    }


def answered_twice(family: str, prompts: Any, cache: Any, attention: str = "sparsemm") -> Any:
    """The second of two answers, the first of them one token long."""
    model, _ = build(family, attention)
    first = generate(model, prompts, cache, tokens=1)
    turn, _ = piece(len(prompts["input_ids"]), 4, seed=0)
    return generate(model, longer(prompts, first.sequences, turn), first[CACHE_ARGUMENT])


@families
@methods
@pytest.mark.parametrize("static", [False, True])
def test_a_turn_after_an_answer_of_one_token(family: str, name: str, static: bool) -> None:
    prompts, method = inputs(family, 2), method_of(name, BELOW, family)
    reference = Reference(method, shape_of(family))
    once = reference.generate(family, prompts, tokens=1)
    turn, _ = piece(2, 4, seed=0)
    again = longer(prompts, once.sequences, turn)
    expected = generate(build(family, NAME)[0], again, once[CACHE_ARGUMENT])
    config = build(family)[0].config
    cache = RaggedCache(config, method, max_new_tokens=ROOM, static=static)
    assert_same(answered_twice(family, prompts, cache), expected)
    assert cache.get_seq_length() == prompts["input_ids"].shape[1] + 1 + 4 + 5


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["snapkv", "adakv"])
def test_a_turn_after_one_token_that_answered_a_question_of_its_own(name: str, static: bool) -> None:
    prompts, method = inputs("llama", 2), method_of(name, BELOW, "llama")
    reference = Reference(method, shape_of("llama"), question=(6, 9))
    once = reference.generate("llama", prompts, tokens=1)
    turn, _ = piece(2, 4, seed=0)
    again = longer(prompts, once.sequences, turn)
    expected = generate(build("llama", NAME)[0], again, once[CACHE_ARGUMENT])
    options: dict[str, Any] = {"max_new_tokens": ROOM, "static": static, "question_tokens": (6, 9)}
    cache = RaggedCache(build("llama")[0].config, method, **options)
    assert_same(answered_twice("llama", prompts, cache), expected)


def test_a_turn_where_nothing_was_evicted_is_full_kv_to_the_bit() -> None:
    prompts = inputs("qwen2_vl", 2)
    config = build("qwen2_vl")[0].config
    whole = RaggedCache(config, method_of("snapkv", 1000, "qwen2_vl"))
    expected = answered_twice("qwen2_vl", prompts, RaggedCache(config, FullKV()))
    assert_same(answered_twice("qwen2_vl", prompts, whole), expected, tolerance=0)


@methods
@pytest.mark.parametrize("static", [False, True])
def test_one_page_is_read_once_for_several_questions(name: str, static: bool) -> None:
    """A copy of the cache for each gives what a reading of its own gives; the page stays as it was."""
    family = "llama"
    model, prompts, method = build(family)[0], inputs(family, 1), method_of(name, BELOW, family)

    def page() -> RaggedCache:
        cache = RaggedCache(model.config, method, max_new_tokens=ROOM, static=static)
        with torch.no_grad():
            model(**prompts, **cache_argument(cache))
        return cache

    read = page()
    for seed in range(3):
        asked = longer(prompts, prompts["input_ids"], piece(1, 5, seed)[0])
        result = generate(model, asked, copy.deepcopy(read))
        assert_same(result, generate(model, asked, page()), tolerance=0)
        reference = Reference(method, shape_of(family), question=[5])
        assert_same(result, reference.generate(family, asked))
    assert read.get_seq_length() == prompts["input_ids"].shape[1]


def test_a_question_by_hand_is_refused_in_words() -> None:
    model, prompts = build("llama")[0], inputs("llama", 1)
    cache = RaggedCache(model.config, method_of("snapkv", BELOW, "llama"))
    with torch.no_grad():
        model(**prompts, **cache_argument(cache))
        with pytest.raises(ValueError, match="question after compression give question_tokens"):
            model(input_ids=piece(1, 5, 0)[0], **cache_argument(copy.deepcopy(cache)))


@pytest.mark.parametrize("method", [FullKV(), SnapKV(BELOW, window=WINDOW)], ids=lambda method: method.name)
def test_generating_without_a_cache_and_with_one_is_refused(method: KVMethod) -> None:
    """transformers gives the whole text again in every step, and a cache of its own would hold it twice."""
    model = build("llama")[0]
    with pytest.raises(ValueError, match="use_cache=False"):
        generate(model, inputs("llama", 1), RaggedCache(model.config, method), use_cache=False)
