"""Gemma3: the whole image as a square of pooled tokens, then, if asked for, crops of it (pan and scan)."""

from __future__ import annotations

from dataclasses import replace

from sparsemm.models.view import Picture, View, whole


def views(picture: Picture) -> list[View]:
    """The image, then its crops from left to right or from top to bottom; tokens row by row in each."""
    side = picture.config.vision_config.image_size
    cell = side // round(picture.config.mm_tokens_per_image**0.5)
    crops = []
    if picture.option("do_pan_and_scan"):
        crops = picture.processor.image_processor.pan_and_scan_batched(
            picture.shape[None],
            picture.option("pan_and_scan_min_crop_size"),
            picture.option("pan_and_scan_max_num_crops"),
            picture.option("pan_and_scan_min_ratio_to_activate"),
        )
    found = [whole(picture, side, cell, base=bool(crops))]
    left = top = 0
    for crop in crops:
        height, width = crop.shape[-2:]
        boxes = whole(replace(picture, width=width, height=height), side, cell).boxes
        found.append(View(boxes + boxes.new_tensor([left, top, left, top])))
        left, top = (left + width, 0) if picture.width >= picture.height else (0, top + height)
    return found
