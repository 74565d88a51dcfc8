"""A box's tokens are exactly those whose input changes when the pixels inside the box change."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import LlavaConfig

from sparsemm.models import box_tokens, supported
from sparsemm.tiny.architecture import PRESETS, build_config, build_processor

CONFIG = build_config(PRESETS["tiny"])
PROCESSOR: Any = build_processor()


@st.composite
def images_and_boxes(draw):
    """Sides that need no resizing (multiples of 16), and a box of at least one pixel."""
    width, height = (16 * draw(st.integers(2, 12)) for _ in range(2))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right, bottom = draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height))
    return width, height, (left, top, right, bottom)


def process(image, text="<|vision_start|><|image_pad|><|vision_end|>"):
    return PROCESSOR(text=[text], images=[image], return_tensors="pt")


@settings(max_examples=60)
@given(images_and_boxes())
def test_box_is_the_tokens_whose_patches_change(case):
    width, height, box = case
    pixels = np.full((height, width, 3), 255, np.uint8)
    before = process(Image.fromarray(pixels))
    pixels[box[1] : box[3], box[0] : box[2]] = 0
    after = process(Image.fromarray(pixels))
    changed = (before["pixel_values"] != after["pixel_values"]).any(-1).view(-1, 4).any(-1)
    image_places = torch.nonzero(before["input_ids"][0] == CONFIG.image_token_id).flatten()
    [mapped] = box_tokens(CONFIG, before, 0, (width, height), [box])
    assert mapped == image_places[changed].tolist()


def test_resized_image_maps_by_its_share():
    """A page twice the size is scaled down to the processor's limit; the box keeps its place."""
    image = Image.new("RGB", (2048, 1024), "white")
    inputs = process(image)
    _, rows, columns = (inputs["image_grid_thw"][0] // torch.tensor([1, 2, 2])).tolist()
    assert rows * columns <= 1024
    [left_half] = box_tokens(CONFIG, inputs, 0, image.size, [(0, 0, 1024, 1024)])
    assert len(left_half) == rows * -(-columns // 2)


def test_wrong_input_is_refused():
    image = Image.new("RGB", (64, 64))
    inputs = process(image)
    inputs["image_grid_thw"] = inputs["image_grid_thw"] * 2
    with pytest.raises(ValueError, match="one image per row"):
        box_tokens(CONFIG, inputs, 0, image.size, [(0, 0, 1, 1)])
    other = LlavaConfig()
    with pytest.raises(ValueError, match=f"known: {supported()[0]}"):
        box_tokens(other, inputs, 0, image.size, [(0, 0, 1, 1)])
