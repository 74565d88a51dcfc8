"""Fan-out against separate runs with real eviction: the same tokens, the same entries kept."""

import copy
from typing import Any

import pytest
import torch

from sparsemm.cache import Fanout, RaggedCache, fan_out
from sparsemm.cache.shared_prompt import ROOM
from sparsemm.cache.stock import cache_argument
from sparsemm.methods import FullKV, KVMethod, SnapKV
from tests.cache.test_matrix import families, method_of
from tests.families import NEEDS_IMAGE, VISUAL, build, image, inputs, prompt, question, tokenized
from tests.families.vocabulary import VOCABULARY
from tests.methods.cases import METHODS

WINDOW = 8
BUDGETS = (WINDOW, 16, 0.5, 64)
ABOVE_THE_PROMPT = 200
TOKENS = 6
FEW = ("fullkv", "snapkv", "adakv", "sparsemm")
REMOVED = torch.tensor([[True, False, False, True], [False, True, False, False]])


def grid(family: str, names: Any = METHODS, budgets: Any = BUDGETS) -> list[KVMethod]:
    """The named methods under every budget; FullKV has none."""
    cells = [method_of(name, budget, family) for name in names for budget in budgets if name != "fullkv"]
    return [FullKV(), *cells]


def separately(
    family: str, prompts: Any, method: KVMethod, tokens: int = TOKENS, **options: Any
) -> tuple[list[list[int]], Any]:
    """Tokens of each row up to its end, and the cache's statistics, with real eviction."""
    model, _ = build(family)
    cache = RaggedCache(model.config, method, **options)
    new = model.generate(**prompts, **cache_argument(cache), max_new_tokens=tokens, do_sample=False)  # pyright: ignore
    ends = model.generation_config.eos_token_id or []
    rows = new[:, prompts["input_ids"].shape[1] :].tolist()
    lengths = [next((at + 1 for at, token in enumerate(row) if token in ends), len(row)) for row in rows]
    return [row[:length] for row, length in zip(rows, lengths, strict=True)], cache.stats()


def assert_equal(
    family: str, prompts: Any, methods: list[KVMethod], tokens: int = TOKENS, **options: Any
) -> Fanout:
    """Fan out, run each method by itself, compare."""
    result = fan_out(build(family)[0], prompts, methods, max_new_tokens=tokens, **options)
    for number, method in enumerate(methods):
        expected, stats = separately(family, prompts, method, tokens, **options)
        assert result.tokens[number] == expected, (number, method)
        assert torch.equal(result.kept[number], stats.realised_per_head)
        assert result.prompt_tokens == stats.prompt_tokens
    return result


@families
def test_tokens_equal_separate_runs_with_real_eviction(family: str) -> None:
    prompts = inputs(family, 3)
    assert not bool(prompts["attention_mask"].all()), "nothing is padded"
    result = assert_equal(family, prompts, grid(family))
    different = {tuple(tokens[0]) for tokens in result.tokens}
    assert len(different) > 5, "nothing was at stake"


@families
def test_rows_that_end_leave_and_change_no_other(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts end at some tokens, a few at once and some beyond the room first made."""
    monkeypatch.setattr(build(family)[0].generation_config, "eos_token_id", [*range(4, len(VOCABULARY), 13)])
    result = assert_equal(family, inputs(family, 4), grid(family, FEW, [WINDOW, 16]), tokens=2 * ROOM + 2)
    lengths = {len(text) for texts in result.tokens for text in texts}
    assert len(lengths) >= 5, lengths
    assert max(lengths) > ROOM, lengths


@pytest.mark.parametrize("max_rows", [1, 3, 1000])
def test_lots_of_rows_change_nothing(max_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build("qwen2_vl")
    monkeypatch.setattr(model.generation_config, "eos_token_id", [7, 17, 27])
    prompts, methods = inputs("qwen2_vl", 4), grid("qwen2_vl", FEW, [WINDOW, 16])
    whole = fan_out(model, prompts, methods, max_new_tokens=TOKENS)
    lots = fan_out(model, prompts, methods, max_new_tokens=TOKENS, max_rows=max_rows)
    assert lots.tokens == whole.tokens
    assert lots.rows == whole.rows
    assert torch.equal(lots.kept, whole.kept)


@families
def test_methods_that_keep_the_same_share_a_row(family: str) -> None:
    """All of the prompt fits: one row for each document."""
    prompts, methods = inputs(family, 3), grid(family, budgets=[ABOVE_THE_PROMPT])
    result = fan_out(build(family)[0], prompts, methods, max_new_tokens=TOKENS)
    assert result.rows == 3
    assert all(tokens == result.tokens[0] for tokens in result.tokens)
    assert result.tokens[0] == separately(family, prompts, FullKV())[0]


@pytest.mark.parametrize("family", VISUAL)
@pytest.mark.parametrize("images", [(0, 0), (2, 1), (3, 3)])
def test_prompts_with_several_images_and_with_none(family: str, images: tuple[int, int]) -> None:
    if family in NEEDS_IMAGE:
        images = (images[0] or 1, images[1] or 1)
    texts = [
        prompt(family, question(row), *["image"] * count, question(row, 20))
        for row, count in enumerate(images)
    ]
    pixels = [[image(row + number) for number in range(count)] for row, count in enumerate(images)]
    assert_equal(family, tokenized(family, texts, pixels), grid(family, FEW, [WINDOW, 16]))


@families
@pytest.mark.parametrize("mode", ["remove", "uniform"])
def test_masked_heads_are_those_of_separate_runs(family: str, mode: str) -> None:
    prompts, methods = inputs(family, 2), grid(family, FEW, [16])
    removed = assert_equal(family, prompts, methods, head_mask=REMOVED, head_mask_mode=mode)
    assert removed.tokens != fan_out(build(family)[0], prompts, methods, max_new_tokens=TOKENS).tokens


@families
def test_a_repetition_penalty_is_applied(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, methods = inputs(family, 2), grid(family, FEW, [16])
    model, _ = build(family)
    plain = fan_out(model, prompts, methods, max_new_tokens=12)
    monkeypatch.setattr(model.generation_config, "repetition_penalty", 1.5)
    assert assert_equal(family, prompts, methods, tokens=12).tokens != plain.tokens


def test_sliding_layers_go_along(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build("gemma3")
    methods = grid("gemma3", budgets=[16])
    monkeypatch.setattr(model.generation_config, "eos_token_id", [7, 12, 17, 22, 27, 32])
    prompts = inputs("gemma3", 2)
    result = assert_equal("gemma3", prompts, methods, tokens=16)
    assert len({len(text) for texts in result.tokens for text in texts}) > 1, "no row left before the others"
    lots = fan_out(model, prompts, methods, max_new_tokens=16, max_rows=5)
    assert lots.tokens == result.tokens


@families
def test_half_precision_runs_and_stays_close(family: str) -> None:
    """Sums are made in another order than in SDPA, so now and then another token is the largest."""
    model: Any = copy.deepcopy(build(family)[0]).bfloat16()
    prompts = inputs(family, 8).to(torch.bfloat16)
    result = fan_out(model, prompts, [FullKV(), SnapKV(16, window=WINDOW)], max_new_tokens=TOKENS)
    stock = model.generate(**prompts, max_new_tokens=TOKENS, do_sample=False)
    expected = stock[:, prompts["input_ids"].shape[1] :].tolist()
    assert [text[0] for text in result.tokens[0]] == [row[0] for row in expected]
    same = sum(text == row for text, row in zip(result.tokens[0], expected, strict=True))
    assert same > len(expected) / 2, same


@pytest.mark.parametrize(
    ("attention", "options", "message"),
    [
        ("sparsemm", {"max_rows": 0}, "max_rows must be positive, got 0"),
        ("sparsemm", {"head_mask_mode": "zero"}, "head_mask_mode must be one of remove, uniform, got 'zero'"),
        ("sparsemm", {"head_mask": torch.zeros(2, 3, dtype=torch.bool)}, r"head_mask must be bool \[2, 4\]"),
        ("sdpa", {}, "attention is 'sdpa'"),
    ],
)
def test_wrong_options_are_refused(attention: str, options: dict[str, Any], message: str) -> None:
    model, _ = build("qwen2_vl", attention)
    with pytest.raises(ValueError, match=message):
        fan_out(model, inputs("qwen2_vl", 1), [FullKV()], max_new_tokens=TOKENS, **options)


def test_a_text_may_end_with_its_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = build("qwen2_vl")
    prompts = inputs("qwen2_vl", 2)
    first = fan_out(model, prompts, [FullKV()], max_new_tokens=1).tokens[0]
    assert [len(text) for text in first] == [1, 1]
    monkeypatch.setattr(model.generation_config, "eos_token_id", first[0])
    assert_equal("qwen2_vl", prompts, grid("qwen2_vl", FEW, [16]))
