"""Head scores of every family against plain loops over eager attention's own weights."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from sparsemm.documents import Page, Word
from sparsemm.heads.identify import score_batch
from sparsemm.heads.probe import probe
from sparsemm.heads.rules import RULES
from sparsemm.models import image_tokens
from sparsemm.models.loading import Checkpoint
from tests.families import VISUAL, build, image, inputs

TOKENS = 6
families = pytest.mark.parametrize("family", VISUAL)


def own(family: str) -> Any:
    """A copy of the model: other tests share the original."""
    return copy.deepcopy(build(family)[0])


def full_layers(family: str) -> list[int]:
    kinds = build(family)[0].config.get_text_config().to_dict().get("layer_types") or []
    every = range(build(family)[0].config.get_text_config().num_hidden_layers)
    return [layer for layer in every if not kinds or kinds[layer] == "full_attention"]


def eager(model: Any, prompts: Any) -> Any:
    model.set_attn_implementation({"text_config": "eager"})
    with torch.inference_mode():
        return model.generate(
            **prompts,
            max_new_tokens=TOKENS,
            do_sample=False,
            output_attentions=True,
            return_dict_in_generate=True,
        )


@families
def test_the_probe_sees_what_eager_attention_weighs(family: str) -> None:
    """Full-attention layers only, on a left-padded batch."""
    model, prompts = own(family), inputs(family, 2)
    with torch.inference_mode(), probe(model) as steps:
        tokens = model.generate(**prompts, max_new_tokens=TOKENS, do_sample=False)
    slow = eager(model, prompts)
    assert torch.equal(tokens, slow.sequences)
    assert len(steps) == TOKENS
    layers = full_layers(family)
    for ours, theirs in zip(steps, slow.attentions, strict=True):
        assert len(ours) == len(layers)
        for looked, layer in zip(ours, layers, strict=True):
            last = theirs[layer][:, :, -1]
            # two keys can tie within float error: ours must be as attended as the largest
            torch.testing.assert_close(
                last.gather(-1, looked[..., None])[..., 0], last.max(-1).values, rtol=0, atol=1e-5
            )


@families
def test_scores_equal_plain_loops(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two regions, the token of step t read from region t mod 2; their tokens as the mapping gives them."""
    model, processor = own(family), build(family)[1]
    monkeypatch.setattr("sparsemm.heads.identify.MAX_NEW_TOKENS", TOKENS)
    monkeypatch.setitem(RULES, "in turn", lambda tokens, page: [(t, t % 2) for t in range(len(tokens))])
    pages = []
    for row in range(2):
        picture = image(row)
        middle = picture.width // 2
        halves = ((0, 0, middle, picture.height), (middle, 0, *picture.size))
        words = tuple(Word("ab", half, ()) for half in halves)
        pages.append(Page(picture, (words,), (), "form", "none", row, 0))
    checkpoint = Checkpoint(model, processor, model.device, model.dtype)
    fast = score_batch(checkpoint, pages, "what", "in turn")
    assert fast.any()
    for page, hits in zip(pages, fast, strict=True):
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what"}]}]
        text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        prompts = processor(text=[text], images=[[page.image]], return_tensors="pt")
        slow = eager(model, prompts)
        model.set_attn_implementation({"text_config": "sparsemm"})
        [[tokens]] = image_tokens(model.config, processor, prompts, [[page.image.size]])
        regions = [tokens.of_box(word.box) for word in page.lines[0]]
        new = slow.sequences[0, prompts["input_ids"].shape[1] :].tolist()
        special = processor.tokenizer.all_special_ids
        length = next((t for t, token in enumerate(new) if token in special), len(new))
        expected = np.zeros_like(hits)
        for step in range(length):
            for index, layer in enumerate(full_layers(family)):
                for head in range(hits.shape[1]):
                    if int(slow.attentions[step][layer][0, head, -1].argmax()) in regions[step % 2]:
                        expected[index, head] += 1 / len(regions[step % 2])
        np.testing.assert_allclose(hits, expected, atol=1e-6)
