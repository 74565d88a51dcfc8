"""InternVL: tiles of the stretched image, then a thumbnail of all of it; a token is a square of patches."""

from __future__ import annotations

from sparsemm.models.view import Picture, View, tiles, whole


def views(picture: Picture) -> list[View]:
    """Tile after tile, tokens row by row in each, then the thumbnail; one view where there is one tile."""
    vision, size = picture.config.vision_config, picture.option("size")
    side, cell = vision.image_size[0], round(vision.patch_size[0] / picture.config.downsample_ratio)
    columns, rows = 1, 1
    if picture.option("crop_to_patches"):
        # Here, because it needs torchvision, which a bare GPU machine may lack.
        from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

        columns, rows = get_optimal_tiled_canvas(
            (picture.height, picture.width),
            (size["height"], size["width"]),
            picture.option("min_patches"),
            picture.option("max_patches"),
        )
    if columns * rows == 1:
        return [whole(picture, side, cell)]
    return [*tiles(picture, columns, rows, side, cell), whole(picture, side, cell, base=True)]
