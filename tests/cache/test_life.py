"""A cache's life: chunks, turns, beams, rows taken away, reset; each against the masked full cache."""

from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from sparsemm.cache import RaggedCache
from sparsemm.cache.stock import CACHE_ARGUMENT, cache_argument
from sparsemm.methods import AdaKV, FullKV, KVMethod, SnapKV
from tests.cache.reference import NAME, Reference, assert_same, generate
from tests.cache.test_matrix import BELOW, WINDOW, shape_of
from tests.families import CANNOT_BE_CUT, FAMILIES, build, inputs, prompt, question, tokenized

families = pytest.mark.parametrize("family", FAMILIES)
in_chunks = pytest.mark.parametrize("family", [name for name in FAMILIES if name not in CANNOT_BE_CUT])
without_sliding = pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma3"])
batches = pytest.mark.parametrize("batch", [1, 2])
ADA = AdaKV(BELOW, window=WINDOW)
SNAP = SnapKV(BELOW, window=WINDOW)


def converse(
    model: PreTrainedModel,
    cache: Any,
    prompts: Any,
    pieces: Sequence[tuple[Tensor, Tensor]],
    chunks: Sequence[int] = (),
) -> list[Tensor]:
    """Feed a prompt, whole or cut before the given tokens, then pieces of (ids, which of them are valid).

    Returns the logits of the prompt's last token, [B, 1, vocabulary], and those of each piece, [B, q, …].
    Positions are given explicitly, since Qwen2-VL's own count only inside generate.
    """
    ids, mask = prompts["input_ids"], prompts["attention_mask"]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    if "mm_token_type_ids" in prompts:
        positions, _ = model.model.get_rope_index(
            ids, prompts["mm_token_type_ids"], image_grid_thw=prompts["image_grid_thw"], attention_mask=mask
        )
    images = {
        name: prompts[name] for name in prompts if name in ("pixel_values", "image_grid_thw", "image_sizes")
    }

    def forward(ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        with torch.no_grad():
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, **cache_argument(cache), **images
            )
        images.clear()
        return output.logits

    prompt = [
        forward(ids[:, start:end], mask[:, :end], positions[..., start:end])
        for start, end in pairwise([0, *chunks, ids.shape[1]])
    ]
    logits = [prompt[-1][:, -1:]]
    for ids, valid in pieces:
        mask = torch.cat([mask, valid], dim=1)
        positions = positions[..., -1:] + valid.cumsum(1)
        logits.append(forward(ids, mask, positions))
    return logits


def text_step(model: PreTrainedModel, cache: RaggedCache, ids: Tensor, mask: Tensor) -> Tensor:
    """Hidden states of one more token from the text model alone, which remembers no earlier images."""
    positions = mask.sum(1, keepdim=True) - 1
    with torch.no_grad():
        return model.get_decoder()(
            input_ids=ids, attention_mask=mask, position_ids=positions, **cache_argument(cache)
        ).last_hidden_state


def reference_model(family: str, method: KVMethod) -> tuple[PreTrainedModel, DynamicCache]:
    reference = Reference(method, shape_of(family))
    AttentionInterface.register(NAME, reference.attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model, _ = build(family, NAME)
    return model, DynamicCache(config=model.config)


def piece(batch: int, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    ids = torch.randint(6, 34, (batch, tokens), generator=torch.Generator().manual_seed(seed))
    return ids, torch.ones(batch, tokens, dtype=torch.long)


@families
@batches
@pytest.mark.parametrize("method", [ADA, SNAP, FullKV()], ids=lambda method: method.name)
def test_turns_after_generation_are_appended_causally(family: str, batch: int, method: KVMethod) -> None:
    prompts = inputs(family, batch)
    pieces = [piece(batch, count, seed) for seed, count in enumerate([1, 1, 5, 1, 20, 1])]
    if batch > 1:
        pieces[2][1][0, :2] = 0  # the turn of the first row is shorter: left-padded
        pieces[4][1][1, :7] = 0
    expected = converse(*reference_model(family, method), prompts, pieces)
    model, _ = build(family)
    cache = RaggedCache(model.config, method)
    result = converse(model, cache, prompts, pieces)
    for (_, valid), mine, theirs in zip(pieces, result[1:], expected[1:], strict=True):
        seen = valid.bool()  # what stands at a padding token is nobody's business
        torch.testing.assert_close(mine[seen], theirs[seen], rtol=0, atol=1e-5)
    assert cache.get_seq_length() == prompts["input_ids"].shape[1] + 29
    if method.evicts:
        assert cache.stats().realised_budget == BELOW  # turns are not counted and not evicted


def test_a_turn_through_generate() -> None:
    prompts = inputs("llava_next", 2)
    reference = Reference(ADA, shape_of("llava_next"))
    model, _ = build("llava_next")
    cache = RaggedCache(model.config, ADA)
    first, expected = generate(model, prompts, cache), reference.generate("llava_next", prompts)
    turn, valid = piece(2, 4, seed=0)
    text = {"input_ids": torch.cat([first.sequences, turn], dim=1)}
    new = torch.ones(2, 6, dtype=torch.long)
    text["attention_mask"] = torch.cat([prompts["attention_mask"], new, valid], dim=1)
    second = generate(model, text, cache)
    assert_same(second, generate(build("llava_next", NAME)[0], text, expected[CACHE_ARGUMENT]))


@in_chunks
@batches
@pytest.mark.parametrize("cuts", [[-3], [-20, -4], [-9, -8, -1]])
def test_a_prompt_in_chunks_is_compressed_when_complete(family: str, batch: int, cuts: list[int]) -> None:
    prompts = inputs(family, batch, letters=24)
    model, _ = build(family)
    steps = [piece(batch, 1, seed) for seed in range(3)]
    whole = RaggedCache(model.config, ADA)
    expected = converse(model, whole, prompts, steps)
    length = prompts["input_ids"].shape[1]
    cache = RaggedCache(model.config, ADA, prompt_length=length)
    result = converse(model, cache, prompts, steps, chunks=[length + cut for cut in cuts])
    for mine, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    assert torch.equal(cache.stats().realised_per_head, whole.stats().realised_per_head)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"),
    reason="5.17 loses the images of a prompt that generate cuts into chunks, with its own cache too",
)
@in_chunks
def test_generate_with_chunks_equals_generate_without(family: str) -> None:
    """Gemma3 without image: an image's tokens see each other, but not across a cut, with any cache."""
    prompts = inputs(family, 2)
    if family == "gemma3":
        prompts = tokenized(family, [prompt(family, question(row, 30)) for row in range(2)])
    model, _ = build(family)
    length = prompts["input_ids"].shape[1]
    chunked = RaggedCache(model.config, ADA, prompt_length=length)
    result = generate(model, prompts, chunked, prefill_chunk_size=10)
    assert_same(result, generate(model, prompts, RaggedCache(model.config, ADA)))


@families
@batches
@pytest.mark.parametrize("method", [ADA, FullKV()], ids=lambda method: method.name)
def test_beams_equal_the_masked_reference(family: str, batch: int, method: KVMethod) -> None:
    prompts = inputs(family, batch)
    expected = Reference(method, shape_of(family)).generate(
        family, prompts, num_beams=3, num_return_sequences=2
    )
    model, _ = build(family)
    cache = RaggedCache(model.config, method)
    result = generate(model, prompts, cache, num_beams=3, num_return_sequences=2)
    assert torch.equal(result.sequences, expected.sequences)
    assert len(cache.stats().prompt_tokens) == 3 * batch


@families
@pytest.mark.parametrize("method", [ADA, FullKV()], ids=lambda method: method.name)
def test_rows_can_be_repeated_chosen_and_reordered(family: str, method: KVMethod) -> None:
    prompts = inputs(family, 2)
    model, _ = build(family)
    ids, valid = piece(2, 1, seed=0)
    mask = torch.cat([prompts["attention_mask"], valid], dim=1)
    plain, moved = RaggedCache(model.config, method), RaggedCache(model.config, method)
    converse(model, plain, prompts, [])
    converse(model, moved, prompts, [])
    moved.batch_repeat_interleave(2)  # 0 0 1 1
    moved.reorder_cache(torch.tensor([3, 0, 2, 1]))  # 1 0 1 0  # pyright: ignore[reportArgumentType]
    moved.batch_select_indices(torch.tensor([True, True, False, True]))  # 1 0 0
    rows = torch.tensor([1, 0, 0])
    expected = text_step(model, plain, ids, mask)[rows]
    torch.testing.assert_close(text_step(model, moved, ids[rows], mask[rows]), expected, rtol=0, atol=1e-5)
    stats, before = moved.stats(), plain.stats()
    assert stats.prompt_tokens == [before.prompt_tokens[row] for row in rows]
    assert stats.evicted_per_row == [before.evicted_per_row[row] for row in rows]
    assert torch.equal(stats.realised_per_head, before.realised_per_head[:, rows])


@without_sliding
@pytest.mark.parametrize("method", [ADA, FullKV()], ids=lambda method: method.name)
def test_cropped_tokens_leave_no_trace(family: str, method: KVMethod) -> None:
    prompts = inputs(family, 2)
    model, _ = build(family)
    steps = [piece(2, 1, seed) for seed in range(3)]
    plain, cropped = RaggedCache(model.config, method), RaggedCache(model.config, method)
    converse(model, plain, prompts, steps[:2])
    converse(model, cropped, prompts, [*steps[:2], piece(2, 1, 7), piece(2, 4, 8)])
    length = prompts["input_ids"].shape[1]
    cropped.crop(-5)
    cropped.crop(0)
    assert cropped.get_seq_length() == length + 2
    mask = torch.cat([prompts["attention_mask"], torch.ones(2, 3, dtype=torch.long)], dim=1)
    expected = text_step(model, plain, steps[2][0], mask)
    torch.testing.assert_close(text_step(model, cropped, steps[2][0], mask), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="only 3 came after the prompt"):
        cropped.crop(-4)


@families
def test_reset_makes_a_cache_new(family: str) -> None:
    model, _ = build(family)
    cache = RaggedCache(model.config, ADA)
    generate(model, inputs(family, 2), cache)
    cache.reset()
    assert cache.get_seq_length() == 0
    with pytest.raises(RuntimeError, match="no complete prompt yet: 0 tokens seen"):
        cache.stats()
    prompts = inputs(family, [3])
    result = generate(model, prompts, cache)
    fresh = RaggedCache(model.config, ADA)
    assert_same(result, generate(model, prompts, fresh), tolerance=0)
    assert vars(cache.stats()).keys() == vars(fresh.stats()).keys()
    assert cache.stats().kv_bytes == fresh.stats().kv_bytes


@families
def test_a_second_prompt_is_refused(family: str) -> None:
    model, _ = build(family)
    prompts = inputs(family, 1)
    cache = RaggedCache(model.config, ADA)
    converse(model, cache, prompts, [])
    with pytest.raises(ValueError, match=r"before any was generated.*cache\.reset\(\)"):
        converse(model, cache, prompts, [])
    cache.reset()
    generate(model, prompts, cache)
    with pytest.raises(ValueError, match=r"does not reach the newest tokens.*cache\.reset\(\)"):
        converse(model, cache, prompts, [])
    text = SimpleNamespace(model=build("llava_next")[0], ids=torch.arange(6, 30)[None])
    cache = RaggedCache(text.model.config, ADA)
    with torch.no_grad():
        text.model(input_ids=text.ids, **cache_argument(cache))
        with pytest.raises(ValueError, match=r"holds 1 rows and was given 3.*cache\.reset\(\)"):
            text.model(input_ids=text.ids.repeat(3, 1), **cache_argument(cache))


@families
def test_chunks_without_the_prompts_length_are_refused(family: str) -> None:
    model, _ = build(family)
    prompts = inputs(family, 1)
    cache = RaggedCache(model.config, ADA)
    with pytest.raises(ValueError, match="in chunks give prompt_length"):
        converse(model, cache, prompts, [], chunks=[prompts["input_ids"].shape[1] - 4])
    cache = RaggedCache(model.config, ADA, prompt_length=10)
    with pytest.raises(ValueError, match="prompt_length says 10"):
        generate(model, prompts, cache)


@pytest.mark.parametrize("length", [1, 3, WINDOW, WINDOW + 1, BELOW])
def test_a_short_prompt_is_kept_whole(length: int) -> None:
    model, _ = build("llava_next")
    stock, _ = build("llava_next", "sdpa")
    prompt = {"input_ids": torch.arange(6, 6 + length)[None], "attention_mask": torch.ones(1, length).long()}
    cache = RaggedCache(model.config, ADA)
    result = generate(model, prompt, cache)
    assert_same(result, generate(stock, prompt, DynamicCache(config=stock.config)), tolerance=0)
    assert cache.stats().realised_budget == length


def test_a_short_row_beside_a_long_one() -> None:
    """The short row has fewer tokens than the window: it is kept whole, and the long row is as alone."""
    model, _ = build("llava_next")
    ids = torch.randint(6, 34, (2, 30), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 30, dtype=torch.long)
    mask[1, :25] = 0
    cache = RaggedCache(model.config, ADA)
    together = generate(model, {"input_ids": ids, "attention_mask": mask}, cache)
    assert cache.stats().prompt_tokens == [30, 5]
    assert cache.stats().evicted_per_row == [2 * 2 * (30 - BELOW), 0]
    for row, tokens in ((0, 30), (1, 5)):
        own = {"input_ids": ids[row : row + 1, -tokens:], "attention_mask": mask[row : row + 1, -tokens:]}
        alone = generate(model, own, RaggedCache(model.config, ADA))
        logits = tuple(step[row : row + 1] for step in together.logits)
        assert_same(SimpleNamespace(sequences=together.sequences[row : row + 1], logits=logits), alone)
