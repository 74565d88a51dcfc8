"""LLaVA-NeXT: the whole image as a square, then tiles of it without their padding, a mark after each row."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution
from transformers.image_utils import ChannelDimension
from transformers.models.llava_next.modeling_llava_next import unpad_image

from sparsemm.models.view import NOTHING, Picture, View, cells, grid, whole, within


def views(picture: Picture) -> list[View]:
    """The base view, then all tiles as one grid: row by row across them, and a token for each row's end."""
    return [base(picture), View(with_row_ends(tile_grid(picture)))]


def base(picture: Picture) -> View:
    """The whole image, stretched to a square of the vision tower's size."""
    return whole(picture, *_sizes(picture), base=True)


def tile_grid(picture: Picture) -> Tensor:
    """Boxes of the patches of all tiles, [rows, columns, 4], rows and columns of mere padding left out."""
    side, patch = _sizes(picture)
    pinpoints = picture.option("image_grid_pinpoints")
    original = picture.height, picture.width
    target = select_best_resolution(original, pinpoints)
    resized = get_patch_output_size(picture.shape, target, ChannelDimension.FIRST)
    vertical, horizontal = (
        within(_tiled(canvas // side, side, patch, (canvas - scaled) // 2, pixels / scaled), pixels)
        for canvas, scaled, pixels in zip(target, resized, original, strict=True)
    )
    return unpad_image(grid(horizontal, vertical).permute(2, 0, 1), original).permute(1, 2, 0)


def with_row_ends(boxes: Tensor) -> Tensor:
    """Put a token that sees nothing behind each row of a grid [rows, columns, 4]; flat, [tokens, 4]."""
    ends = NOTHING.expand(len(boxes), 1, 4)
    return torch.cat([boxes, ends], dim=1).flatten(0, 1)


def _sizes(picture: Picture) -> tuple[int, int]:
    vision = picture.config.vision_config
    return vision.image_size, vision.patch_size


def _tiled(tiles: int, side: int, patch: int, padding: int, scale: float) -> Tensor:
    """Ends of an axis of patches, [tiles x patches, 2]; what is over at a tile's end is unseen."""
    return torch.cat(
        [cells(side // patch, patch, scale=scale, start=tile * side - padding) for tile in range(tiles)]
    )
