"""Batched generation against transformers' own, on real pages."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparsemm.documents import make_page
from sparsemm.evaluation.generation import cut, generate
from sparsemm.evaluation.responses import Response
from sparsemm.methods import FullKV, SnapKV
from sparsemm.models.loading import Checkpoint, load
from sparsemm.models.prompts import images_of, prepare
from sparsemm.tiny import OCR_PROMPT

NEW_TOKENS = 24


@pytest.fixture(scope="module")
def checkpoint(untrained: Path) -> Checkpoint:
    return load({"pretrained": str(untrained), "dtype": "float32"}, "cpu")


def conversation(seed: int) -> list[dict]:
    """A page of 32 or 96 visual tokens, so that neighbours differ in length, and the transcription prompt."""
    page = make_page(seed, tokens=(32, 96)[seed % 2])
    content = [{"type": "image", "image": page.image}, {"type": "text", "text": OCR_PROMPT}]
    return [{"role": "user", "content": content}]


CONVERSATIONS = [conversation(seed) for seed in range(4)]


def answers(responses: list[Response]) -> list[str]:
    return [response.text for response in responses]


def test_fullkv_answers_as_transformers_does_without_this_package(untrained, checkpoint):
    model: Any = AutoModelForImageTextToText.from_pretrained(untrained, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(untrained)
    expected = []
    for one in CONVERSATIONS:
        text = processor.apply_chat_template(one, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[text], images=images_of(one), return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        new = output[:, inputs["input_ids"].shape[1] :]
        expected += processor.batch_decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    responses = generate(checkpoint, CONVERSATIONS, FullKV(), max_new_tokens=NEW_TOKENS)
    assert answers(responses) == expected
    assert len(set(expected)) == len(expected)  # otherwise the comparison would say nothing


def test_image_settings_reach_the_processor(untrained):
    model = {"pretrained": str(untrained), "dtype": "float32", "device_map": "cpu"}
    smaller = model | {"images_kwargs": {"size": {"shortest_edge": 256, "longest_edge": 2048}}}
    lengths = [prepare(load(one), CONVERSATIONS)["input_ids"].shape[1] for one in (model, smaller)]
    assert lengths[1] < lengths[0]


@pytest.mark.parametrize("method", [FullKV(), SnapKV(24, window=8)], ids=lambda method: method.name)
def test_answers_do_not_depend_on_the_batch(checkpoint, method):
    together = generate(checkpoint, CONVERSATIONS, method, max_new_tokens=NEW_TOKENS)
    alone = [generate(checkpoint, [one], method, max_new_tokens=NEW_TOKENS)[0] for one in CONVERSATIONS]
    assert answers(together) == answers(alone)
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.prompt_tokens == theirs.prompt_tokens
        assert ours.tokens == theirs.tokens
        assert ours.realised_per_layer == theirs.realised_per_layer
        assert ours.evicted_tokens == theirs.evicted_tokens


def test_figures_are_those_of_each_request(checkpoint):
    text = checkpoint.model.config.text_config
    heads = text.num_hidden_layers * text.num_key_value_heads
    prompts = [
        32 + 4,
        96 + 4,
        32 + 4,
        96 + 4,
    ]  # visual tokens, start and end of the image, question, assistant
    responses = generate(checkpoint, CONVERSATIONS, SnapKV(40, window=8), max_new_tokens=NEW_TOKENS)
    for prompt, response in zip(prompts, responses, strict=True):
        assert response.prompt_tokens == prompt
        assert response.realised_budget == min(prompt, 40)
        assert response.evicted_tokens == max(prompt - 40, 0) * heads
        assert 0 < response.new_tokens <= NEW_TOKENS
        assert response.kv_bytes is not None
        assert response.full_kv_bytes is not None
        assert 0 < response.kv_bytes <= response.full_kv_bytes
        assert (response.kv_bytes < response.full_kv_bytes) == (prompt > 40)
        assert response.prefill_s is not None
        assert response.decode_s is not None
        assert response.prefill_s > 0
        assert response.decode_s > 0


def test_length_counts_up_to_the_end_token(checkpoint):
    responses: Any = generate(checkpoint, CONVERSATIONS, FullKV(), max_new_tokens=NEW_TOKENS)
    tokenizer = checkpoint.processor.tokenizer
    lengths = [len(tokenizer(response.text)["input_ids"]) for response in responses]
    ended = [response.new_tokens < NEW_TOKENS for response in responses]
    assert set(ended) == {True, False}  # both kinds are among the four
    for response, length, end in zip(responses, lengths, ended, strict=True):
        assert response.new_tokens >= length + end


def test_stop_strings_end_the_text(checkpoint):
    free = answers(generate(checkpoint, CONVERSATIONS, FullKV(), max_new_tokens=NEW_TOKENS))
    stop = free[1][3:5]
    stopped = answers(generate(checkpoint, CONVERSATIONS, FullKV(), max_new_tokens=NEW_TOKENS, until=[stop]))
    assert stopped == [text.split(stop)[0] for text in free]
    assert stopped != free
    assert cut("ab\ncd", ["d", "\n", ""]) == "ab"
    assert cut("abcd", ["\n"]) == "abcd"


def test_other_media_are_refused():
    with pytest.raises(ValueError, match="only text and images"):
        images_of([{"role": "user", "content": [{"type": "video", "video": "film.mp4"}]}])
