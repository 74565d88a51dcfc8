"""Pictures of a dataset from its own bytes: a file of this machine that a dataset names is not opened."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL import Image, ImageOps

from sparsemm.documents.opening import whole_pictures


def embedded(data: Any) -> Any:
    """A dataset of `datasets` as it was, but for how its pictures are read.

    `datasets` opens whatever path or address stands in the place of a picture's bytes.

    Parameters
    ----------
    data : datasets.Dataset
        Its columns of pictures are found by their type.
    """
    from datasets import Image as Pictures

    columns = {name: kind for name, kind in data.features.items() if isinstance(kind, Pictures)}
    for name in columns:
        data = data.cast_column(name, Pictures(decode=False))

    def read(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        pictures = {name: [picture(one, kind.mode) for one in batch[name]] for name, kind in columns.items()}
        return {**batch, **pictures}

    return data.with_transform(read)


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
