"""A box in image pixels -> the visual tokens that see it, as indices into the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the image given to the processor; right and bottom excluded."""

_MERGED_GRID = ("qwen2_vl",)
"""Families whose visual tokens are one grid of merged patches over the resized image, row by row."""


def supported() -> tuple[str, ...]:
    """``model_type`` of the families whose boxes can be mapped."""
    return _MERGED_GRID


def box_tokens(
    config: Any, inputs: Mapping[str, Tensor], row: int, image_size: tuple[int, int], boxes: Sequence[Box]
) -> list[list[int]]:
    """Prompt positions of the visual tokens that each box overlaps; one image per row.

    Parameters
    ----------
    config : PretrainedConfig
        The model's configuration.
    inputs : mapping
        What the processor returned for the batch: ``input_ids`` [B, L] and ``image_grid_thw`` [B, 3].
    row : int
        Batch row.
    image_size : (width, height)
        Of the image before the processor resized it, in pixels.
    boxes : sequence of (left, top, right, bottom)

    Returns
    -------
    list of list of int
        Per box, ascending positions in the row's L (padding counted in L). At least one for a box inside
        the image.

    Raises
    ------
    ValueError
        A family whose layout is not known, or a row with another number of image tokens than its grid has.
    """
    if config.model_type not in _MERGED_GRID:
        raise ValueError(
            f"where the pixels of a {config.model_type!r} model sit among its tokens is not known; "
            f"known: {', '.join(_MERGED_GRID)}"
        )
    merge = config.vision_config.spatial_merge_size
    _, patch_rows, patch_columns = inputs["image_grid_thw"][row].tolist()
    rows, columns = patch_rows // merge, patch_columns // merge
    places = torch.nonzero(inputs["input_ids"][row] == config.image_token_id).flatten().tolist()
    if len(places) != rows * columns:
        raise ValueError(
            f"row {row} has {len(places)} image tokens, its grid {rows} x {columns}: give one image per row"
        )
    width, height = image_size
    found = []
    for left, top, right, bottom in boxes:
        horizontal = _cells(left, right, width, columns)
        vertical = _cells(top, bottom, height, rows)
        found.append([places[y * columns + x] for y in vertical for x in horizontal])
    return found


def _cells(start: float, end: float, pixels: int, cells: int) -> range:
    """Cells of an axis that the half-open interval [start, end) touches, the axis cut into equal cells."""
    scale = cells / pixels
    first = min(max(int(start * scale), 0), cells - 1)
    last = min(max(-int(-end * scale // 1), first + 1), cells)
    return range(first, last)
