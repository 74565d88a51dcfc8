"""Opening a picture's file that a user, or a folder of somebody else's, names."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from sparsemm.configs import check_ordinary


def open_picture(path: str | Path) -> Image.Image:
    """The picture in a file, RGB.

    Raises
    ------
    ValueError
        It cannot be read; the reason alone.
    """
    try:
        check_ordinary(Path(path))
        return Image.open(path).convert("RGB")
    except OSError as error:  # of which Pillow's own "cannot identify" is one
        raise ValueError(error.strerror or "it is no picture") from error
    except (SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
