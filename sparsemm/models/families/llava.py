"""LLaVA-1.5: the image is scaled and its middle cut out, or padded to a square; one grid of patches."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.image_transforms import get_resize_output_image_size
from transformers.image_utils import ChannelDimension

from sparsemm.models.view import Picture, View, cells, grid, within


def views(picture: Picture) -> list[View]:
    """One view; tokens row by row."""
    original = canvas = (picture.height, picture.width)
    if picture.option("do_pad") and hasattr(picture.processor.image_processor, "pad_to_square"):
        canvas = (max(original), max(original))
    resized = kept = _resized(picture, canvas)
    if picture.option("do_center_crop"):
        kept = tuple(picture.option("crop_size")[side] for side in ("height", "width"))
    patch = picture.config.vision_config.patch_size
    vertical, horizontal = (_axis(patch, *axis) for axis in zip(original, canvas, resized, kept, strict=True))
    return [View(grid(horizontal, vertical).flatten(0, 1))]


def _resized(picture: Picture, canvas: tuple[int, int]) -> tuple[int, int]:
    """Height and width after scaling."""
    size = picture.option("size")
    if not (shortest := size.get("shortest_edge")):
        return size["height"], size["width"]
    image: Any = picture.shape.new_empty(3, *canvas)  # it is asked for its shape only
    return get_resize_output_image_size(
        image, shortest, default_to_square=False, input_data_format=ChannelDimension.FIRST
    )


def _axis(patch: int, original: int, canvas: int, resized: int, kept: int) -> Tensor:
    """Ends of the patches along an axis, [patches, 2]: padded to `canvas`, scaled, its middle kept."""
    ends = cells(kept // patch, patch, scale=canvas / resized, start=int((resized - kept) / 2))
    return within(ends - (canvas - original) // 2, original)
