"""Pictures of a dataset from its own bytes: a file of this machine that a dataset names is not opened."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image, ImageOps

from sparsemm.documents.opening import whole_pictures


def embedded(data: Any) -> Any:
    """A dataset of `datasets` as it was, but for how its pictures are read, in lists and structures too.

    `datasets` opens whatever path or address stands in the place of a picture's bytes. What it would decode
    otherwise (sound, videos, documents) stays encoded: no model here takes it.

    Parameters
    ----------
    data : datasets.Dataset
        Its pictures are found by their type.
    """
    kinds = {name: kind for name, kind in data.features.items() if undecoded(kind) != kind}
    for name, kind in kinds.items():
        data = data.cast_column(name, undecoded(kind))

    def read(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {**batch, **{name: [_read(one, kind) for one in batch[name]] for name, kind in kinds.items()}}

    return data.with_transform(read)


def undecoded(kind: Any) -> Any:
    """A type of `datasets` in which nothing is decoded."""
    from datasets import LargeList, List

    if isinstance(kind, dict):
        return {name: undecoded(part) for name, part in kind.items()}
    if isinstance(kind, List):
        return List(undecoded(kind.feature), length=kind.length)
    if isinstance(kind, LargeList):
        return LargeList(undecoded(kind.feature))
    return replace(kind, decode=False) if hasattr(kind, "decode") else kind


def _read(held: Any, kind: Any) -> Any:
    """A value of a type with its pictures read."""
    from datasets import Image as Pictures

    if held is None:
        return None
    if isinstance(kind, Pictures):
        return picture(held, kind.mode) if kind.decode else held
    if isinstance(kind, dict):
        return {name: _read(part, kind[name]) for name, part in held.items()}
    return [_read(part, kind.feature) for part in held] if hasattr(kind, "feature") else held


def picture(held: Any, mode: str | None = None) -> Any:
    """The picture of an entry as `datasets` decodes it; None where there is none.

    Parameters
    ----------
    held : mapping or None
        ``bytes`` and ``path``.
    mode : str, optional
        Of Pillow, in the place of the picture's own.

    Raises
    ------
    ValueError
        It has no bytes.
    Exception
        They are no whole picture: whatever Pillow raises.
    """
    if not isinstance(held, Mapping):
        return held
    if held["bytes"] is None:
        raise ValueError(
            f"the data name a file in the place of a picture ({held['path']!r}): only pictures that are in "
            "the data are read"
        )
    with whole_pictures():
        image = Image.open(io.BytesIO(held["bytes"]))
        image.load()
    try:
        if image.getexif().get(ORIENTATION) is not None:
            image = ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow raises whatever it stumbles over in EXIF's entries
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"how its camera was held cannot be read ({' '.join(reason.split())})") from error
    return image if mode in (None, image.mode) else image.convert(mode)


ORIENTATION = 0x0112
"""EXIF's entry that says how a camera was held."""
