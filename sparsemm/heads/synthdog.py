"""SynthDoG pages with boxes: the hub's ``nnethercott/synthdog-en-detection``, which SparseMM's authors used.

Its rows, as public code reads them (never seen here): ``image``, and ``2_coord``, a list of
``{"chunk": "text", "coord": [[left, top], [right, bottom]]}`` in pixels of the image. ``2_coord`` may also be
JSON text, the two corners one flat list of four numbers, in any order. Local parquet files of the same
columns are read the same way.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from sparsemm.configs import InputError
from sparsemm.documents import Word
from sparsemm.documents.opening import read_picture
from sparsemm.heads.sources import LineEach

DATASET = "nnethercott/synthdog-en-detection"
REGIONS = "2_coord"
EXPECTED = f'{REGIONS} must be [{{"chunk": "text", "coord": [[left, top], [right, bottom]]}}, …]'


@dataclass(frozen=True)
class Row(LineEach):
    """A row of the data set: an encoded picture, and its regions, each a line of its own."""

    name: str
    picture: bytes
    lines: tuple[tuple[Word, ...], ...]

    @property
    def image(self) -> Image.Image:
        """The picture, RGB, decoded anew each time: a thousand at once would not fit the memory.

        Raises
        ------
        InputError
            If it cannot be decoded.
        """
        try:
            return read_picture(self.picture).convert("RGB")
        except ValueError as error:
            raise InputError(f"{self.name}: its image cannot be read: {error}") from error

    @property
    def digest(self) -> str:
        """Hash of picture and regions."""
        regions = [(word.text, word.box) for line in self.lines for word in line]
        return hashlib.sha256(self.picture + json.dumps(regions).encode()).hexdigest()[:16]


def from_dataset(files: str | Path | None, n: int) -> list[Row]:
    """Return the first `n` rows of a data set, fewer if it has fewer.

    Parameters
    ----------
    files : path or None
        A parquet file, or a folder of them; None: the hub's data set, streamed.
    n : int

    Raises
    ------
    InputError
        The hub cannot be reached, a file cannot be read, or a row is not as the module says.
    """
    rows = []
    for index, row in enumerate(islice(_read(files), n)):
        name = f"{files or DATASET}, row {index}"
        picture = row["image"]
        if not isinstance(picture, dict) or not isinstance(picture.get("bytes"), bytes):
            raise InputError(f"{name}: it holds no image")
        rows.append(Row(name, picture["bytes"], tuple((word,) for word in regions(row[REGIONS], name))))
    if not rows:
        raise InputError(f"{files or DATASET} has no rows")
    return rows


def _read(files: str | Path | None) -> Iterator[dict[str, Any]]:
    from datasets import Image as ImageColumn
    from datasets import load_dataset, logging
    from datasets.exceptions import DatasetGenerationError
    from pyarrow import ArrowInvalid

    logging.set_verbosity(logging.CRITICAL)  # what is wrong is said below, once
    try:
        if files is None:
            data = load_dataset(DATASET, split="train", streaming=True)
        else:
            found = sorted(Path(files).rglob("*.parquet")) if Path(files).is_dir() else [Path(files)]
            paths = [path for path in found if path.is_file()]
            data = load_dataset("parquet", data_files=list(map(str, paths)), split="train", streaming=True)
        first = (
            next(iter(data.take(1)), {}) if data.column_names is None else dict.fromkeys(data.column_names)
        )
        for column in ("image", REGIONS):
            if column not in first:
                raise InputError(
                    f"{files or DATASET} has no column {column!r} (it has {', '.join(first)}): "
                    f"documents=synthdog reads image and {REGIONS}"
                )
        yield from data.cast_column("image", ImageColumn(decode=False))
    except (OSError, ArrowInvalid, DatasetGenerationError) as error:
        if files is not None:
            raise InputError(f"{files} cannot be read: {error}") from error
        raise InputError(
            f"the hub's {DATASET} cannot be reached ({error}): give a folder of its parquet files, or of "
            "your own pictures with a boxes.json (documents=FOLDER), or draw such pages (documents=running)"
        ) from error


def regions(given: Any, name: str) -> list[Word]:
    """Words of a row's ``2_coord``; a chunk without text is left out, a box is at least one pixel each way.

    Raises
    ------
    InputError
        It is not as the module says; `name` is the row's.
    """
    try:
        table = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: {REGIONS} is text but no JSON: {error}") from error
    if not isinstance(table, Sequence) or isinstance(table, str):
        raise InputError(f"{name}: {EXPECTED}, got {type(table).__name__}")
    words = []
    for region in table:
        match region:
            case {"chunk": str(text), "coord": coord} if box := _box(coord):
                if text.strip():
                    words.append(Word(text.strip(), box, ()))
            case _:
                raise InputError(f"{name}: {EXPECTED}, got {region!r}")
    return words


def _box(coord: Any) -> tuple[Any, Any, Any, Any] | None:
    """The box between two corners, at least one pixel each way; None if they are none."""
    match coord:
        case [[x0, y0], [x1, y1]] | [x0, y0, x1, y1]:
            ends: list[Any] = [x0, y0, x1, y1]
            if all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
                (left, right), (top, bottom) = sorted(ends[::2]), sorted(ends[1::2])
                return left, top, max(right, left + 1), max(bottom, top + 1)
    return None
