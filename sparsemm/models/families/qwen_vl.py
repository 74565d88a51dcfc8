"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL: the image keeps its shape; a token is a square of merged patches."""

from __future__ import annotations

from sparsemm.models.view import Picture, View, cells, grid


def views(picture: Picture) -> list[View]:
    """One view; tokens row by row, whatever order the vision tower works in."""
    _, rows, columns = picture.inputs["image_grid_thw"][picture.index].tolist()
    merge = picture.config.vision_config.spatial_merge_size
    horizontal = cells(columns // merge, merge, scale=picture.width / columns)
    vertical = cells(rows // merge, merge, scale=picture.height / rows)
    return [View(grid(horizontal, vertical).flatten(0, 1))]
