"""What visual tokens see: rectangles of the image, made axis by axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of a batch, as the processor was given it.

    Attributes
    ----------
    config
        The model's configuration.
    processor
        Its processor.
    inputs
        What the processor returned for the batch.
    index
        Number of the image among all of the batch.
    width, height
        Of the image before any resizing, in pixels.
    options
        Options of the image processor that were given with the call.
    """

    config: Any
    processor: Any
    inputs: Mapping[str, Any]
    index: int
    width: int
    height: int
    options: Mapping[str, Any]

    @property
    def shape(self) -> Tensor:
        """An empty image of this size, [3, height, width]: transformers' functions ask images for it."""
        return torch.empty(3, self.height, self.width, device="meta")

    def option(self, name: str) -> Any:
        """An option of the image processor: as given with the call, else the processor's own."""
        declared = getattr(getattr(self.processor, "valid_processor_kwargs", None), "_defaults", {})
        older = declared.get("images_kwargs", {})  # before transformers 5.23
        defaults = getattr(self.processor, "images_kwargs", older)
        own = getattr(self.processor.image_processor, name, None)
        return self.options.get(name, defaults.get(name, own))


class View(NamedTuple):
    """A picture of the image, or of a part of it, that the vision tower gets.

    Attributes
    ----------
    boxes
        What each of its tokens sees, in the order of the prompt, float64 [tokens, 4]: left, top, right and
        bottom in pixels of the image. NaN where a token sees nothing of it.
    base
        Whether it shows the whole image at low resolution beside views that show parts.
    """

    boxes: Tensor
    base: bool = False


NOTHING = torch.full((1, 4), torch.nan, dtype=torch.float64)
"""The box of one token that sees nothing of the image."""


def cells(count: int, step: float, *, scale: float = 1.0, start: float = 0.0) -> Tensor:
    """Cut one axis of a view into cells, and give their ends in pixels of the image, float64 [count, 2].

    Parameters
    ----------
    count
        Cells.
    step
        Pixels of the view from one cell to the next.
    scale
        Pixels of the image for one of the view.
    start
        Pixel of the view's canvas at which the first cell begins, counted from where the image begins there.
    """
    ends = torch.arange(count, dtype=torch.float64)[:, None] + torch.tensor([0.0, 1.0])
    return (ends * step + start) * scale


def within(ends: Tensor, pixels: int) -> Tensor:
    """Cut cells, [count, 2], off at the image's edges; NaN for those that lie outside."""
    ends = ends.clamp(0, pixels)
    return ends.masked_fill((ends[:, 1:] - ends[:, :1]) <= 1e-6, torch.nan)


def grid(horizontal: Tensor, vertical: Tensor) -> Tensor:
    """Boxes of a grid, [rows, columns, 4], from its columns' and rows' ends, [columns, 2] and [rows, 2]."""
    rows, columns = len(vertical), len(horizontal)
    x, y = horizontal.expand(rows, columns, 2), vertical[:, None].expand(rows, columns, 2)
    boxes = torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)
    return boxes.masked_fill(boxes.isnan().any(dim=-1, keepdim=True), torch.nan)


def whole(picture: Picture, side: int, cell: int, *, base: bool = False) -> View:
    """Return the view of an image stretched to a square, tokens row by row.

    Parameters
    ----------
    picture
        The image.
    side, cell
        Pixels of the view to a side, and to a side of a token; what is over at the end is unseen.
    base
        As in `View`.
    """
    [view] = tiles(picture, 1, 1, side, cell)
    return View(view.boxes, base)


def tiles(picture: Picture, columns: int, rows: int, side: int, cell: int) -> list[View]:
    """Return the views of an image stretched to `rows` x `columns` squares; the rest as in `whole`."""
    x, y = (
        [cells(side // cell, cell, scale=pixels / (count * side), start=tile * side) for tile in range(count)]
        for pixels, count in ((picture.width, columns), (picture.height, rows))
    )
    return [View(grid(horizontal, vertical).flatten(0, 1)) for vertical in y for horizontal in x]
