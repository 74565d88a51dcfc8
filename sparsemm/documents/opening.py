"""Reading pictures: whole ones from ordinary files, or an error that says why not."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from sparsemm.configs import check_ordinary


@contextmanager
def whole_pictures() -> Iterator[None]:
    """Let Pillow refuse a picture that is cut off: lmms-eval has it fill up what is missing with black."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def read_picture(source: Path | bytes) -> Image.Image:
    """Read and decode a picture's file, or its content.

    Raises
    ------
    ValueError
        It cannot be read; the reason alone.
    """
    try:
        if isinstance(source, Path):
            check_ordinary(source)
        with whole_pictures():
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
            image.load()
            return image
    except UnidentifiedImageError:
        raise ValueError("it is no picture") from None
    except Exception as error:  # decoders raise whatever they stumble over: ValueError, SyntaxError, struct's
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise ValueError(" ".join(str(reason).split())) from error
