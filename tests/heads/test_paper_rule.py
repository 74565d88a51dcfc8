"""The paper's rule, computed again from its sentence alone: one full pass, plain loops."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparsemm.documents import make_page
from sparsemm.heads.identify import score_batch
from sparsemm.models.loading import Checkpoint
from sparsemm.models.prompts import asked, prepare
from sparsemm.tiny import CHECKPOINT, OCR_PROMPT

PAGES = [make_page(seed, kind=kind, tokens=tokens) for seed, kind, tokens in
         ((21, "form", 32), (22, "receipt", 64), (23, "table", 48))]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(
        CHECKPOINT, dtype=torch.float32, attn_implementation={"text_config": "sparsemm"}
    ).eval()


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(CHECKPOINT)


def by_hand(model, processor, page):
    """Hits of a page: greedy text without cache, then eager attention of prompt and text in one pass."""
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": OCR_PROMPT}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=[text], images=[page.image], return_tensors="pt")
    prompt = inputs["input_ids"].shape[1]
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=1024, do_sample=False)
    added = out.shape[1] - prompt
    whole = {**inputs, "input_ids": out, "attention_mask": torch.ones_like(out)}
    if "mm_token_type_ids" in inputs:
        zeros = torch.zeros(1, added, dtype=inputs["mm_token_type_ids"].dtype)
        whole["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], zeros], dim=1)
    model.set_attn_implementation({"text_config": "eager"})
    with torch.inference_mode():
        attentions = model(**whole, output_attentions=True, use_cache=False).attentions
    model.set_attn_implementation({"text_config": "sparsemm"})
    words = [word for line in page.lines for word in line]
    first = out[0].tolist().index(model.config.image_token_id)
    hits = np.zeros((len(attentions), attentions[0].shape[1]))
    counted = 0
    for step in range(added):
        string = processor.tokenizer.decode(out[0, prompt + step : prompt + step + 1]).strip()
        holders = [word for word in words if string and string in word.text]
        if len(holders) != 1:
            continue
        counted += 1
        left, top, right, bottom = holders[0].box
        region = [
            first + row * (page.image.width // 16) + column
            for row in range(page.image.height // 16)
            for column in range(page.image.width // 16)
            if left < 16 * column + 16 and 16 * column < right and top < 16 * row + 16 and 16 * row < bottom
        ]
        for layer, weights in enumerate(attentions):
            for head in range(weights.shape[1]):
                # the row of the position that produced the token: one before its own
                if int(weights[0, head, prompt + step - 1].argmax()) in region:
                    hits[layer, head] += 1 / len(region)
    return hits, counted


def test_a_left_padded_batch_scores_as_the_sentence_of_the_paper_says(model, processor):
    checkpoint = Checkpoint(model, processor, model.device, model.dtype)
    padding = prepare(checkpoint, [asked(page.image, OCR_PROMPT) for page in PAGES])["attention_mask"] == 0
    assert padding[:, 0].any()
    assert not padding[:, -1].any()
    fast = score_batch(checkpoint, PAGES, OCR_PROMPT, "paper")
    for page, hits in zip(PAGES, fast, strict=True):
        expected, counted = by_hand(model, processor, page)
        assert counted
        assert expected.any()
        np.testing.assert_allclose(hits, expected, atol=1e-5)
    assert len({hits.tobytes() for hits in fast}) == len(PAGES)
