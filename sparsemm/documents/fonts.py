"""Fonts that are the same on every machine: the ones inside matplotlib's package."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

SEEN_FONTS = (
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
)
"""Faces that training and evaluation pages share. All advance every character by 7 or 8 pixels."""

HELD_OUT_FONT = "cmtt10"
"""A face that no training page ever uses; drawn only when it is asked for by name."""

SIZES = dict.fromkeys(SEEN_FONTS, (12, 13, 14)) | {HELD_OUT_FONT: (14, 15, 16)}
"""Pixel sizes per face: a line fits 16 pixels, a character advances 7 or 8."""


def font_folder() -> Path:
    """Folder of matplotlib's TrueType files, found without importing matplotlib.

    Raises
    ------
    FileNotFoundError
        If matplotlib is not installed.
    """
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "the document generator draws with matplotlib's fonts: pip install matplotlib"
        )
    return Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"


@lru_cache(maxsize=64)
def load_font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """One face at one pixel size, with the layout engine that every Pillow build has.

    Raises
    ------
    ValueError
        If the face is not one of ``SEEN_FONTS`` or ``HELD_OUT_FONT``.
    """
    if name not in SIZES:
        raise ValueError(f"unknown font {name!r}; known: {', '.join(SIZES)}")
    return ImageFont.truetype(str(font_folder() / f"{name}.ttf"), size, layout_engine=ImageFont.Layout.BASIC)
