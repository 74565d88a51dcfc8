"""A question that comes after compression: what is kept does not depend on it, and it sees what was kept."""

from typing import Any

import pytest
import torch

from sparsemm.cache import RaggedCache, fan_out
from sparsemm.cache.question import Context, question_lengths, split
from sparsemm.cache.stock import cache_argument
from sparsemm.methods import FullKV
from tests.cache.reference import Reference, assert_same, generate
from tests.cache.test_fanout import FEW, assert_equal, grid
from tests.cache.test_matrix import method_of, ragged, row_of, shape_of
from tests.families import (
    CANNOT_BE_CUT,
    FAMILIES,
    TEXT_ONLY,
    TWO,
    build,
    image,
    inputs,
    prompt,
    question,
    tokenized,
)
from tests.families.vocabulary import VOCABULARY
from tests.methods.cases import METHODS

WINDOW, BUDGET = 8, 12
QUESTION = (6, 9, 4)
"""Tokens of each row's question, in the text behind the image."""

families = pytest.mark.parametrize("family", [name for name in FAMILIES if name not in CANNOT_BE_CUT])
crossed = pytest.mark.parametrize(  # as in the matrix: few of one meet all of the other
    ("family", "name"),
    [
        (family, name)
        for family in FAMILIES
        if family not in CANNOT_BE_CUT
        for name in METHODS
        if family in TWO or name in FEW
    ],
)


@crossed
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_reference(family: str, name: str, batch: int) -> None:
    """Left-padded rows whose questions are of different lengths."""
    prompts, method, asked = inputs(family, batch), method_of(name, BUDGET, family), QUESTION[:batch]
    reference = Reference(method, shape_of(family), question=asked)
    expected = reference.generate(family, prompts)
    result, cache = ragged(family, method, prompts, question_tokens=asked)
    assert_same(result, expected)
    stats = cache.stats()
    assert stats.realised_per_head.tolist() == reference.counts()
    assert stats.prompt_tokens == prompts["attention_mask"].sum(1).tolist()
    context = torch.tensor(stats.prompt_tokens) - torch.tensor(asked)
    evicted = (context[None, :, None] - stats.realised_per_head).sum(dim=(0, 2))
    assert stats.evicted_per_row == evicted.tolist()
    if method.evicts:
        assert stats.tokens_evicted > 0


@families
@pytest.mark.parametrize("name", FEW)
def test_a_row_equals_its_solo_run(family: str, name: str) -> None:
    method = method_of(name, BUDGET, family)
    result, cache = ragged(family, method, inputs(family, 3), question_tokens=QUESTION)
    for row, asked in enumerate(QUESTION):
        alone, own = ragged(family, method, inputs(family, [row]), question_tokens=asked)
        assert_same(row_of(result, row), alone)
        assert torch.equal(cache.stats().realised_per_head[:, row : row + 1], own.stats().realised_per_head)


@families
@pytest.mark.parametrize("batch", [1, 3])
def test_a_budget_above_the_context_is_full_kv_to_the_bit(family: str, batch: int) -> None:
    prompts = inputs(family, batch)
    expected, _ = ragged(family, FullKV(), prompts)
    longest = int((prompts["attention_mask"].sum(1) - torch.tensor(QUESTION[:batch])).max())
    for method in (FullKV(), method_of("snapkv", longest, family)):
        result, cache = ragged(family, method, prompts, question_tokens=QUESTION[:batch])
        assert_same(result, expected, tolerance=0)
        assert cache.stats().tokens_evicted == 0


def test_what_is_kept_does_not_depend_on_the_question() -> None:
    """With the question in the prompt, another question keeps other entries; behind it, the same."""
    model, _ = build("qwen2_vl")
    for asked in (None, 12):
        kept: list[list[torch.Tensor]] = []
        for row in (0, 2):  # two texts of the same length about the same image
            prompts = tokenized("qwen2_vl", [prompt("qwen2_vl", "image", question(row))], [[image(0)]])
            cache = RaggedCache(model.config, method_of("adakv", 12, "qwen2_vl"), question_tokens=asked)
            generate(model, prompts, cache, tokens=1)
            layer = cache.compressible_layers[1]
            assert layer.storage is not None
            segments = zip(layer.storage.starts, layer.kept.flatten().tolist(), strict=True)
            kept.append([layer.storage.keys[start : start + count] for start, count in segments])
        same = all(
            one.shape == other.shape and torch.equal(one, other) for one, other in zip(*kept, strict=True)
        )
        assert same == bool(asked)


@families
def test_fan_out_gives_the_tokens_of_separate_runs(family: str) -> None:
    result = assert_equal(
        family, inputs(family, 3), grid(family, budgets=(8, 12, 0.5)), question_tokens=QUESTION
    )
    assert result.question_tokens == [*QUESTION]
    assert len({tuple(tokens[0]) for tokens in result.tokens}) > 3, "nothing was at stake"


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_context_may_end_with_an_image_token(family: str) -> None:
    """Where positions have several parts, a question begins beyond the largest of the image's last token."""
    model, _ = build(family)
    prompts = inputs(family, 3)
    image_token = int(model.config.image_token_id)
    asked = [ids[::-1].index(image_token) for ids in prompts["input_ids"].tolist()]
    assert_equal(family, prompts, grid(family, budgets=(8, 12)), question_tokens=asked)


@families
def test_rows_of_a_fan_out_end_each_at_its_time(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the question holds end tokens, as chat templates do, and a first token ends the text."""
    model, _ = build(family)
    prompts = inputs(family, 3)
    asked = {int(token) for row, count in enumerate(QUESTION) for token in prompts["input_ids"][row, -count:]}
    ends = [*sorted(asked)[:3], *range(4, len(VOCABULARY), 17)]
    monkeypatch.setattr(model.generation_config, "eos_token_id", ends)
    methods = grid(family, FEW, [WINDOW, 12])
    result = assert_equal(family, prompts, methods, tokens=20, question_tokens=QUESTION)
    lots = fan_out(model, prompts, methods, max_new_tokens=20, max_rows=5, question_tokens=QUESTION)
    assert lots.tokens == result.tokens
    assert len({len(text) for texts in result.tokens for text in texts}) > 2


@pytest.mark.parametrize("family", CANNOT_BE_CUT)
def test_a_model_whose_image_sees_the_question_is_refused(family: str) -> None:
    for batch in (1, 2):
        with pytest.raises(ValueError, match="all tokens of a prompt see each other"):
            ragged(family, FullKV(), inputs(family, batch), question_tokens=4)
        with pytest.raises(ValueError, match="all tokens of a prompt see each other"):
            fan_out(build(family)[0], inputs(family, batch), [FullKV()], max_new_tokens=2, question_tokens=4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (0, "at least 1 and leave some of the prompt"),
        ((3, 1000), "at least 1 and leave some of the prompt"),
        ((3, 3, 3), "given for 3 rows, the prompt has 2"),
        (2.7, "must be whole numbers, got 2.7"),
        (True, "must be whole numbers, got True"),
    ],
)
def test_questions_that_do_not_fit_are_refused(asked: Any, message: str) -> None:
    model, _ = build("qwen2_vl")
    with pytest.raises(ValueError, match=message):
        ragged("qwen2_vl", FullKV(), inputs("qwen2_vl", 2), question_tokens=asked)
    with pytest.raises(ValueError, match=message):
        fan_out(model, inputs("qwen2_vl", 2), [FullKV()], max_new_tokens=2, question_tokens=asked)


def test_chunks_and_questions_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="cannot come in chunks"):
        RaggedCache(build("llama")[0].config, FullKV(), prompt_length=40, question_tokens=4)


def test_later_turns_and_beams_go_on_from_a_question() -> None:
    """The cache is one like any other afterwards."""
    family = TEXT_ONLY[0]
    model, method, prompts = build(family)[0], method_of("snapkv", BUDGET, family), inputs(family, 2)
    cache = RaggedCache(model.config, method, question_tokens=5)
    beams: Any = model.generate(
        **prompts, **cache_argument(cache), num_beams=3, max_new_tokens=4, do_sample=False
    )  # pyright: ignore
    assert len(beams) == 2
    assert cache.stats().realised_budget == BUDGET
    assert cache.compressible_layers[0].question.tolist() == [5] * 6


def test_a_split_batch_is_left_padded_anew() -> None:
    ids = torch.tensor([[0, 0, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    contexts, questions = split({"input_ids": ids, "attention_mask": mask, "pixel_values": 7}, (1, 4))
    assert contexts["input_ids"].tolist() == [[0, 0, 1, 2, 3], [0, 0, 0, 1, 2]]
    assert contexts["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [0, 0, 0, 1, 1]]
    assert contexts["pixel_values"] == 7
    assert [questions.tokens[row, :count].tolist() for row, count in enumerate((1, 4))] == [[4], [3, 4, 5, 6]]
    lengths = torch.tensor([4, 6])
    context = Context.of(question_lengths((1, 4), lengths), lengths, 6, ids.device)
    kept = torch.tensor([[[False, False, True, False, True]], [[False, False, False, True, False]]])
    assert context.kept_of_prompt(kept).int().tolist() == [[[0, 0, 1, 0, 1, 1]], [[1, 0, 1, 1, 1, 1]]]
