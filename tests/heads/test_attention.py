"""Attention maps against eager attention's own weights, laid over the picture by plain loops."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparsemm.configs import shipped
from sparsemm.documents import make_page
from sparsemm.heads import HeadScores
from sparsemm.heads.attention import attention_maps, lay
from sparsemm.heads.rules import RULES
from sparsemm.heads.standing import top_heads
from sparsemm.models import image_tokens
from sparsemm.models.loading import Checkpoint
from sparsemm.models.prompts import asked, prepare
from sparsemm.tiny import CHECKPOINT, OCR_PROMPT
from tests.families import TWO, VISUAL, build, image
from tests.heads.test_families import TOKENS, eager, full_layers, own


def spread(weights: np.ndarray, boxes: np.ndarray, shape: Any, size: Any) -> np.ndarray:
    """One token after the other, cell by cell."""
    found, (width, height) = np.zeros(shape), size
    for weight, (left, top, right, bottom) in zip(weights, boxes, strict=True):
        for row in range(shape[0]):
            for column in range(shape[1]):
                x = min(right, (column + 1) * width / shape[1]) - max(left, column * width / shape[1])
                y = min(bottom, (row + 1) * height / shape[0]) - max(top, row * height / shape[0])
                if x > 0 and y > 0:
                    found[row, column] += weight * x * y / ((right - left) * (bottom - top))
    return found


@pytest.mark.parametrize("family", VISUAL)
def test_maps_are_eager_attentions_weights(family: str) -> None:
    model, processor, picture = own(family), build(family)[1], image(1)
    layers = full_layers(family)
    heads = ["0-1", f"{len(layers) - 1}-0", "0-0"]
    found = attention_maps(model, processor, picture, "what", heads, max_new_tokens=TOKENS)
    assert model.config.get_text_config()._attn_implementation == "sparsemm"  # as it was before
    checkpoint = Checkpoint(model, processor, model.device, model.dtype)
    prompts = prepare(checkpoint, [asked(picture, "what")])
    slow = eager(model, prompts)
    [[tokens]] = image_tokens(model.config, processor, prompts, [[picture.size]])
    counted = ~tokens.boxes.isnan().any(dim=1) & ~tokens.base if not tokens.base.all() else tokens.base
    positions, boxes = tokens.positions[counted], tokens.boxes[counted].numpy()
    assert found.maps.shape[:2] == (len(found.tokens), len(heads))
    assert found.answer.startswith(found.tokens[0])
    for step in range(len(found.tokens)):
        for index, name in enumerate(heads):
            layer, head = map(int, name.split("-"))
            weights = slow.attentions[step][layers[layer]][0, head, -1][positions].numpy()
            expected = spread(weights, boxes, found.maps.shape[2:], picture.size)
            np.testing.assert_allclose(found.maps[step, index].numpy(), expected, atol=1e-5)
            assert found.maps[step, index].sum() == pytest.approx(weights.sum(), abs=1e-5)


@pytest.fixture(scope="module")
def reader() -> tuple[Any, Any]:
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype=torch.float32)
    return model.eval(), AutoProcessor.from_pretrained(CHECKPOINT)


def test_the_best_visual_head_looks_at_the_word_that_is_written(reader: tuple[Any, Any]) -> None:
    """Each character's brightest place lies in its word's box, and no other head's on the whole."""
    model, processor = reader
    scores = HeadScores.load(shipped("results/head_scores/tiny.safetensors")).scores
    page = make_page(3, tokens=96)
    heads = [*top_heads(scores, 1), *top_heads(-scores, 1)]
    found = attention_maps(model, processor, page.image, OCR_PROMPT, heads, max_new_tokens=200)
    assert found.maps.shape[2:] == (page.image.height // 16, page.image.width // 16)
    words = [word for line in page.lines for word in line]
    written = RULES["aligned"](list(found.tokens), page)
    assert len(written) > 20
    right = np.zeros(2)
    for token, word in written:
        left, top, end, bottom = words[word].box
        for index in range(2):
            row, column = np.unravel_index(int(found.maps[token, index].argmax()), found.maps.shape[2:])
            right[index] += left - 16 < column * 16 < end and top - 16 < row * 16 < bottom
    assert right[0] > 0.8 * len(written)
    assert right[1] < 0.3 * len(written)


@pytest.mark.parametrize("family", TWO)
@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([], "at least one head"),
        (["9-0"], "there is no head 9-0: the model has 2 layers of"),
        (["0-99"], "there is no head 0-99"),
        (["best"], "a head is named layer-head, such as '7-3', got 'best'"),
    ],
)
def test_heads_that_are_none_are_refused_in_one_line(family: str, heads: list[str], message: str) -> None:
    model, processor = build(family)
    with pytest.raises(ValueError, match=message):
        attention_maps(model, processor, image(0), "what", heads)


def test_boxes_that_overlap_keep_their_sum() -> None:
    boxes = torch.tensor([[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20]], dtype=torch.float64)
    laid = lay(torch.tensor([[0.2, 0.4, 0.3]]), boxes, (20, 20))
    torch.testing.assert_close(laid, torch.tensor([[[0.4, 0.2], [0.0, 0.3]]]))


def test_options_of_the_image_processor_reach_prompt_and_grid() -> None:
    model, processor = own("qwen2_vl"), build("qwen2_vl")[1]
    picture = image(3).resize((96, 64))
    options: dict[str, Any] = {"size": {"shortest_edge": 16 * 16, "longest_edge": 32 * 32}}
    whole, small = (
        attention_maps(model, processor, picture, "what", ["1-2"], max_new_tokens=2, **given)
        for given in (dict[str, Any](), options)
    )
    assert small.maps[0, 0].numel() < whole.maps[0, 0].numel()
    assert 0 < small.maps[0].sum() < 1
