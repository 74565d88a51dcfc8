"""Which tokens really see a box: pixels inside it are changed, and the prompt's embeddings compared.

The real processor and the real vision tower run, with the output of the tower's attention set to zero, so
that a patch sees only itself. Nothing here knows how a family orders its tokens.
"""

import copy
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tests.families import build, prompt, tokenized

OUTPUTS = (
    "out_proj.weight",
    "out_proj.bias",
    "attn.proj.weight",
    "attn.proj.bias",
    "projection_layer.weight",
)
"""Last parameters of the towers' attention layers."""


class Embedded(Exception):
    """Thrown where the text model would begin; holds what it was given."""


@cache
def patch_by_patch(family: str) -> tuple[Any, Any]:
    """A family's model whose vision tower mixes no patches, and its processor."""
    model, processor = build(family)
    model = copy.deepcopy(model)
    silenced = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("vision" in name or "visual" in name) and name.endswith(OUTPUTS):
                parameter.zero_()
                silenced += 1
    assert silenced >= 2, "no attention was found in the vision tower"

    def stop(module: Any, args: Any, kwargs: Any) -> None:
        raise Embedded(kwargs["inputs_embeds"])

    model.get_decoder().register_forward_pre_hook(stop, with_kwargs=True)
    return model, processor


def embeddings(family: str, inputs: Any) -> Tensor:
    """What the text model is given, [B, L, hidden]."""
    model, _ = patch_by_patch(family)
    try:
        with torch.no_grad():
            model(**inputs)
    except Embedded as found:
        return found.args[0]
    raise AssertionError("the text model was not reached")


def dark(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """A dark picture of a size (width, height), so that its negative differs strongly everywhere."""
    return np.random.default_rng(seed).integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)


def inverted(pixels: NDArray[np.uint8], box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """The picture with its negative in a box."""
    left, top, right, bottom = box
    pixels = pixels.copy()
    pixels[top:bottom, left:right] = 255 - pixels[top:bottom, left:right]
    return pixels


PAN_AND_SCAN = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 8}
OPTIONS: dict[str, dict[str, Any]] = {"gemma3": PAN_AND_SCAN, "gemma 3": PAN_AND_SCAN}
"""What a family's processor is called with, so that it cuts images up."""


def ask(family: str, rows: list[list[NDArray[np.uint8]]], **options: Any) -> Any:
    """A batch of prompts with the given images and a little text around them."""
    options = OPTIONS.get(family, {}) | options
    texts = [prompt(family, "a", *["image", "b"] * len(images)) for images in rows]
    return tokenized(
        family, texts, [[Image.fromarray(image) for image in images] for images in rows], **options
    )


def changed(family: str, before: Any, after: Any) -> list[list[int]]:
    """For each row of two batches, the positions whose embeddings differ."""
    assert torch.equal(before["input_ids"], after["input_ids"])
    different = (embeddings(family, before) != embeddings(family, after)).any(dim=-1)
    return [torch.nonzero(row).flatten().tolist() for row in different]
