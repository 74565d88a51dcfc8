"""LLaVA-OneVision: LLaVA-NeXT's views, large grids of tiles pooled; images given together have one view."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparsemm.models.families.llava_next import base, tile_grid, with_row_ends
from sparsemm.models.view import NOTHING, Picture, View, cells, grid, within


def views(picture: Picture) -> list[View]:
    """The base view and the tiles; or, for images that the processor took together, one padded square."""
    if _alone(picture):
        return [base(picture), View(with_row_ends(_pooled(tile_grid(picture), picture)))]
    vision, longest = picture.config.vision_config, max(picture.width, picture.height)
    count = vision.image_size // vision.patch_size
    axes = []
    for pixels in (picture.width, picture.height):
        ends = cells(count, vision.patch_size, scale=longest / vision.image_size)
        axes.append(within(ends - (longest - pixels) // 2, pixels))
    return [View(torch.cat([grid(*axes).flatten(0, 1), NOTHING]))]


def _alone(picture: Picture) -> bool:
    """Whether the image was cut into tiles: the processor says how many images it took together."""
    counts = torch.as_tensor(picture.inputs["batch_num_images"])
    first_of_next = counts.cumsum(0)
    return int(counts[torch.searchsorted(first_of_next, picture.index, right=True)]) == 1


def _pooled(boxes: Tensor, picture: Picture) -> Tensor:
    """Grid of tokens, [rows, columns, 4], where bilinear interpolation made fewer tokens of more patches."""
    rows, columns = boxes.shape[:2]
    vision = picture.config.vision_config
    most = int(picture.config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = math.sqrt(rows * columns / (most * (vision.image_size // vision.patch_size) ** 2))
    if ratio <= 1.1:
        return boxes
    x, y = (_read(count, int(count // ratio)) for count in (columns, rows))
    read = [boxes[vertical][:, horizontal] for vertical in y for horizontal in x]
    starts = torch.stack([box[..., :2].nan_to_num(torch.inf) for box in read]).amin(dim=0)
    ends = torch.stack([box[..., 2:].nan_to_num(-torch.inf) for box in read]).amax(dim=0)
    pooled = torch.cat([starts, ends], dim=-1)
    return pooled.masked_fill(pooled.isinf(), torch.nan)


def _read(count: int, pooled: int) -> tuple[Tensor, Tensor]:
    """First and last of `count` values that each of `pooled` interpolated ones is a mean of."""
    center = ((torch.arange(pooled, dtype=torch.float64) + 0.5) * count / pooled - 0.5).clamp(min=0)
    first = center.floor().long()
    return first, (first + (center - first > 1e-4)).clamp(max=count - 1)
