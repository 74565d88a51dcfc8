"""Idefics3 and SmolVLM: tiles of the stretched image, then all of it; a token is a square of patches."""

from __future__ import annotations

import math

from sparsemm.models.view import Picture, View, tiles, whole


def views(picture: Picture) -> list[View]:
    """Tile after tile, tokens row by row in each, then the whole; marks of rows and columns are no tokens."""
    vision = picture.config.vision_config
    side, cell = vision.image_size, vision.patch_size * picture.config.scale_factor
    columns, rows = _tiles(picture) if picture.option("do_image_splitting") else (1, 1)
    if columns * rows == 1:
        return [whole(picture, side, cell)]
    return [*tiles(picture, columns, rows, side, cell), whole(picture, side, cell, base=True)]


def _tiles(picture: Picture) -> tuple[int, int]:
    """Columns and rows of tiles, as ``resize_for_vision_encoder`` makes them."""
    # Here, because it needs torchvision, which a bare GPU machine may lack.
    from transformers.models.idefics3.image_processing_idefics3 import get_resize_output_image_size

    height, width = get_resize_output_image_size(picture.shape, picture.option("size")["longest_edge"])
    tile, ratio = picture.option("max_image_size")["longest_edge"], width / height
    if width >= height:
        width = math.ceil(width / tile) * tile
        height = int(width / ratio)
    else:
        height = math.ceil(height / tile) * tile
        width = int(height * ratio)
    return math.ceil(width / tile), math.ceil(height / tile)
