"""Documents with boxes for head identification: generated pages, running text, a folder of the user's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

from PIL import Image

from sparsemm.configs import InputError, is_within
from sparsemm.documents import KINDS, RUNNING_VERSION, VERSION, Word, make_page, make_running_page
from sparsemm.documents.opening import read_picture
from sparsemm.documents.prose import load_prose
from sparsemm.documents.running import SMALLEST

BOXES = "boxes.json"
"""In a folder of documents: ``{"a.png": [{"text": "TOTAL", "box": [left, top, right, bottom]}, …], …}``."""

FIRST_SEED = 2_000_000
"""Documents that no task evaluates and no training draws: split "eval", seeds from here on."""


class Boxed(Protocol):
    """What identification needs of a document."""

    @property
    def image(self) -> Image.Image:
        """The picture, RGB."""
        ...

    @property
    def lines(self) -> tuple[tuple[Word, ...], ...]:
        """Regions of text in reading order, line by line; boxes in pixels of the image."""
        ...

    @property
    def text(self) -> str:
        """The transcription: words joined by one space, lines by a line feed."""
        ...


class LineEach:
    """What documents share whose regions are a line each."""

    lines: tuple[tuple[Word, ...], ...]

    @property
    def text(self) -> str:
        """The regions' texts, a line each."""
        return "\n".join(word.text for line in self.lines for word in line)


@dataclass(frozen=True)
class Scan(LineEach):
    """A picture's file and its regions, each a line of its own."""

    path: Path
    lines: tuple[tuple[Word, ...], ...]

    @property
    def image(self) -> Image.Image:
        """The picture, read anew each time.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        try:
            return read_picture(self.path).convert("RGB")
        except ValueError as error:
            raise InputError(f"{self.path} cannot be read: {error}") from error


def generated(
    n: int, *, seed: int, kinds: Sequence[str], tokens: int
) -> tuple[Sequence[Boxed], dict[str, Any]]:
    """Return `n` generated pages, kinds in turn, and what a card says of them.

    Raises
    ------
    InputError
        If no kind is named.
    """
    if not kinds:
        raise InputError(f"no kind of page is chosen (kinds=[{','.join(KINDS)}])")
    first = FIRST_SEED + seed
    pages = [make_page(first + index, kind=kinds[index % len(kinds)], tokens=tokens) for index in range(n)]
    facts = {
        "seeds": [first, first + n - 1],
        "kinds": sorted({page.kind for page in pages}),
        "tokens": [tokens],
        "documents_version": VERSION,
    }
    return pages, facts


class RunningPages(Sequence[Boxed]):
    """Pages of running text, drawn when they are asked for: a thousand at once would not fit the memory."""

    def __init__(self, seeds: range, size: tuple[int, int]) -> None:
        self._seeds, self._size = seeds, size

    def __len__(self) -> int:
        return len(self._seeds)

    @overload
    def __getitem__(self, index: int) -> Boxed: ...
    @overload
    def __getitem__(self, index: slice) -> list[Boxed]: ...
    def __getitem__(self, index: int | slice) -> Boxed | list[Boxed]:
        if isinstance(index, slice):
            return [make_running_page(seed, size=self._size) for seed in self._seeds[index]]
        return make_running_page(self._seeds[index], size=self._size)


def running(n: int, *, seed: int, size: Sequence[int]) -> tuple[Sequence[Boxed], dict[str, Any]]:
    """Return `n` pages of running text of one size (width, height in pixels), and what a card says of them.

    Raises
    ------
    InputError
        The size is not two numbers of pixels, or too small; or the file of the text is not installed.
    """
    if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise InputError(f"size must be [width, height] in pixels, got {size}")
    if min(size) < SMALLEST:
        raise InputError(
            f"size: a page of running text has at least {SMALLEST} pixels to a side, got {list(size)}"
        )
    try:
        text = load_prose().facts
    except FileNotFoundError as error:
        raise InputError(str(error)) from error
    first = FIRST_SEED + seed
    facts = {
        "documents": "running",
        "seeds": [first, first + n - 1],
        "size": list(size),
        "running_version": RUNNING_VERSION,
        **text,
    }
    return RunningPages(range(first, first + n), (size[0], size[1])), facts


def from_folder(folder: str | Path, n: int) -> tuple[Sequence[Boxed], dict[str, Any]]:
    """Return the first `n` documents that a folder's ``boxes.json`` names, and what a card says of them.

    The card's ``documents`` is a hash of that file, not of the pictures.

    Raises
    ------
    InputError
        No such file, or an entry that is not as `BOXES` says.
    """
    path = Path(folder) / BOXES
    if not path.is_file():
        raise InputError(f"documents={folder}: there is no {BOXES} in it")
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(table, dict) or not table:
        raise InputError(f'{path} must hold {{"picture.png": [{{"text": …, "box": …}}, …], …}}')
    scans = []
    for name, regions in list(table.items())[:n]:
        if not is_within(Path(folder) / name, Path(folder)):
            raise InputError(f"{path}: the picture {name!r} is not in the folder, and is not opened")
        if not isinstance(regions, list):
            raise InputError(f"{path}: {name} must have a list of regions, got {type(regions).__name__}")
        scans.append(Scan(Path(folder) / name, tuple((_word(path, name, region),) for region in regions)))
    return scans, {"documents": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _word(path: Path, name: str, region: Any) -> Word:
    match region:
        case {"text": str(text), "box": [left, top, right, bottom]} if text.strip():
            ends = (left, top, right, bottom)
            if all(isinstance(end, int | float) for end in ends) and left < right and top < bottom:
                return Word(text, ends, ())
    raise InputError(
        f'{path}: {name}: a region is {{"text": "…", "box": [left, top, right, bottom]}}, got {region!r}'
    )
