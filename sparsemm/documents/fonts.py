"""Fonts that are the same on every machine: the ones inside matplotlib's package."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SEEN_FONTS = (
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "STIXGeneral",
    "STIXGeneralBol",
)
"""Faces that training and evaluation pages share: four of equal advance, six proportional."""

HELD_OUT_FONT = "cmtt10"
"""A face that no training page ever uses; drawn only when it is asked for by name."""

SIZES = {
    **dict.fromkeys(SEEN_FONTS, (12, 13, 14)),
    **dict.fromkeys(("STIXGeneral", "STIXGeneralBol"), (14, 15, 16)),
    HELD_OUT_FONT: (14, 15, 16),
}
"""Pixel sizes per face: a line fits 16 pixels."""

MIN_ADVANCE = 4
"""No character advances by less, in pixels, however narrow it is."""


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


class Face:
    """One font at one pixel size; characters are drawn one by one, on whole pixels.

    Attributes
    ----------
    cap_top, cap_bottom : int
        Where capital letters begin and end, in pixels below the point that text is drawn at.
    """

    def __init__(self, name: str, size: int) -> None:
        if name not in SIZES:
            raise ValueError(f"unknown font {name!r}; known: {', '.join(SIZES)}")
        # the layout engine that every Pillow build has
        file = str(font_folder() / f"{name}.ttf")
        self._font = ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)
        self._glyphs: dict[str, tuple[Image.Image, tuple[int, int], int]] = {}
        _, top, _, bottom = self._font.getbbox("H")
        self.cap_top, self.cap_bottom = int(top), int(bottom)

    def glyph(self, character: str) -> tuple[Image.Image, tuple[int, int], int]:
        """Mask of a character, its offset (x, y) from the drawing point, and its advance; in pixels."""
        if character not in self._glyphs:
            left, top, right, bottom = map(int, self._font.getbbox(character))
            mask = Image.new("L", (max(1, right - left), max(1, bottom - top)))
            ImageDraw.Draw(mask).text((-left, -top), character, font=self._font, fill=255)
            advance = max(MIN_ADVANCE, round(self._font.getlength(character)))
            self._glyphs[character] = (mask, (left, top), advance)
        return self._glyphs[character]

    def advances(self, text: str) -> list[int]:
        """How far each character moves the next one, in pixels."""
        return [self.glyph(character)[2] for character in text]


@lru_cache(maxsize=64)
def load_face(name: str, size: int) -> Face:
    """One face at one pixel size.

    Raises
    ------
    ValueError
        If the face is not one of ``SEEN_FONTS`` or ``HELD_OUT_FONT``.
    """
    return Face(name, size)
