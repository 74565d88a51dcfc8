"""Images in prompts: which token sees which pixels, and which tokens see a box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sparsemm.models.families import LAYOUTS
from sparsemm.models.view import Picture, Size

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the image given to the processor; right and bottom excluded."""

Views = Literal["tiles", "base", "all"]


def check_views(views: str) -> None:
    """Raise ValueError for an unknown choice of views."""
    if views not in get_args(Views):
        raise ValueError(f"views must be tiles, base or all, got {views!r}")


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """The tokens of one image in one prompt.

    Attributes
    ----------
    positions
        Where they stand in the prompt, ascending, int64 [tokens]; padding counted.
    boxes
        What each sees, in pixels of the image, float64 [tokens, 4]: left, top, right, bottom. NaN where a
        token sees nothing of the image: marks at the ends of rows, padding. Boxes may overlap where a family
        pools, and lie in each other where it shows the image at several resolutions.
    base
        Tokens that belong to an overview beside views of higher resolution, bool [tokens].
    """

    positions: Tensor
    boxes: Tensor
    base: Tensor

    def of_box(self, box: Box, views: Views = "tiles") -> list[int]:
        """Positions in the prompt of the tokens that see a part of a box.

        Parameters
        ----------
        box
            In pixels of the image.
        views
            Which of them count where an image has several: those of higher resolution ("tiles", as in
            SparseMM, arXiv 2506.05344), the overview ("base"), or both ("all"). A single view always counts.

        Returns
        -------
        list of int
            Ascending. Empty for a box that the family's processor cuts off.

        Raises
        ------
        ValueError
            Unknown `views`.
        """
        check_views(views)
        overlap = torch.minimum(
            self.boxes[:, 2:], torch.tensor(box[2:], dtype=torch.float64)
        ) - torch.maximum(self.boxes[:, :2], torch.tensor(box[:2], dtype=torch.float64))
        seen = (overlap > 1e-6).all(dim=1)  # NaN compares as false
        if views != "all" and bool(self.base.any()):
            seen &= self.base if views == "base" else ~self.base
        return self.positions[seen].tolist()


def image_tokens(
    config: Any,
    processor: Any,
    inputs: Mapping[str, Any],
    image_sizes: Sequence[Sequence[Size]],
    **options: Any,
) -> list[list[ImageTokens]]:
    """Find the tokens of every image of a batch.

    Parameters
    ----------
    config : PretrainedConfig
        The model's configuration.
    processor : ProcessorMixin
        Its processor.
    inputs : mapping
        What the processor returned for the batch, ``input_ids`` [B, L] among it.
    image_sizes : sequence of sequence of (width, height)
        For each row its images in order: their sizes before the processor resized them, in pixels.
    **options
        Options of the image processor that were given with that call, such as ``do_pan_and_scan=True``.

    Returns
    -------
    list of list of ImageTokens
        For each row its images, in order.

    Raises
    ------
    ValueError
        A family whose layout is not known, or a row with another number of image tokens than its images
        have: they are others, or the row holds a video.
    """
    if config.model_type not in LAYOUTS:
        raise ValueError(
            f"where the pixels of a {config.model_type!r} model sit among its tokens is not known; "
            f"known: {', '.join(LAYOUTS)}"
        )
    ids = inputs["input_ids"]
    if len(ids) != len(image_sizes):
        raise ValueError(f"image sizes are given for {len(image_sizes)} rows, the batch has {len(ids)}")
    found, first = [], 0
    for row, sizes in enumerate(image_sizes):
        pictures = [
            Picture(config, processor, inputs, first + number, width, height, options)
            for number, (width, height) in enumerate(sizes)
        ]
        positions = torch.nonzero(ids[row].cpu() == config.image_token_id).flatten()
        found.append(_place(pictures, positions, row))
        first += len(sizes)
    return found


def _place(pictures: Sequence[Picture], positions: Tensor, row: int) -> list[ImageTokens]:
    """Give each image of a row its share of the row's image tokens."""
    images = [LAYOUTS[picture.config.model_type](picture) for picture in pictures]
    counts = [sum(len(view.boxes) for view in views) for views in images]
    if sum(counts) != len(positions):
        raise ValueError(
            f"row {row} has {len(positions)} image tokens, images of the {len(pictures)} given sizes have "
            f"{sum(counts)}: are these the images, and the options that the processor was called with?"
        )
    return [
        ImageTokens(
            positions=part,
            boxes=torch.cat([view.boxes for view in views]),
            base=torch.cat([torch.full((len(view.boxes),), view.base) for view in views]),
        )
        for part, views in zip(positions.split(counts) if counts else (), images, strict=True)
    ]
