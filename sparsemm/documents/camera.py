"""A photograph of a sheet: it lies on a desk, is seen a little from the side, blurred and noisy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter

from sparsemm.documents.columns import Box
from sparsemm.documents.surfaces import Pixels

INSET, JITTER = 0.03, 0.02
"""At most so much of a side lies between a corner of the image and of the sheet; and is added at random."""


class Camera:
    """Where a sheet as large as the image lies in it.

    Parameters
    ----------
    generator : numpy.random.Generator
        Draws the corners now, blur and noise in `photograph`.
    width, height : int
        Of the image, in pixels.
    """

    def __init__(self, generator: np.random.Generator, width: int, height: int) -> None:
        self.width, self.height, self._generator = width, height, generator
        inset, side = generator.uniform(0, INSET), np.array([width, height])
        sheet = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * side
        inward = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
        self.corners = sheet + inward * (inset + generator.uniform(0, JITTER, (4, 2))) * side
        self._onto_image = homography(sheet, self.corners)

    def moved(self, box: Box) -> Box:
        """The upright box, in pixels of the image, around a box of the sheet."""
        left, top, right, bottom = box
        points = np.array([(x, y, 1) for x in (left, right) for y in (top, bottom)]) @ self._onto_image.T
        xs, ys = (points[:, :2] / points[:, 2:]).T
        return (
            max(0, math.floor(xs.min())),
            max(0, math.floor(ys.min())),
            min(self.width, math.ceil(xs.max())),
            min(self.height, math.ceil(ys.max())),
        )

    def photograph(self, sheet: Pixels, desk: Pixels) -> Image.Image:
        """The image of a sheet on a desk, both [height, width, 3]; RGB."""
        generator, size = self._generator, (self.width, self.height)
        to_sheet = np.linalg.inv(self._onto_image)
        coefficients = tuple((to_sheet / to_sheet[2, 2]).ravel()[:8])

        def seen(picture: Image.Image) -> Image.Image:
            return picture.transform(
                size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC
            )

        page = seen(_image(sheet))
        cover = seen(Image.new("L", size, 255))
        shadow = cover.filter(ImageFilter.GaussianBlur(max(2, self.width / 80)))
        dark = 1 - generator.uniform(0.2, 0.6) * np.asarray(shadow, dtype=np.float32)[..., None] / 255
        picture = Image.composite(page, _image(desk * dark), cover)
        picture = picture.filter(ImageFilter.GaussianBlur(generator.uniform(0, 0.6)))
        noise = generator.normal(0, generator.uniform(0, 6), (self.height, self.width, 1))
        return _image(np.asarray(picture, dtype=np.float32) + noise)


def homography(
    before: Sequence[Sequence[float]] | Pixels, after: Sequence[Sequence[float]] | Pixels
) -> Pixels:
    """The perspective that takes four points to four others, float64 [3, 3]: rows act on (x, y, 1)."""
    equations, values = [], []
    for (x, y), (u, v) in zip(before, after, strict=True):
        equations += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(equations, dtype=float), np.array(values)), 1).reshape(3, 3)


def _image(pixels: Pixels) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
