"""What no checkpoint may hold: files that hang their reader, and names of files that lie elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparsemm.configs import InputError, check_ordinary

ADAPTER = "adapter_config.json"


def check_folder(folder: Path) -> None:
    """Look whether a checkpoint is ordinary files, and all of it is in its folder.

    A pipe or a device would be read for ever, and what lies elsewhere is not in the fingerprint.

    Raises
    ------
    InputError
        One line that names the file.
    """
    for path in sorted(folder.iterdir()):
        try:
            check_ordinary(path)
        except ValueError as error:
            raise InputError(f"the checkpoint in {folder} cannot be read: {path.name}: {error}") from None
    if (folder / ADAPTER).exists():
        raise InputError(
            f"the checkpoint in {folder} has an adapter ({ADAPTER}): merge it into the weights first"
        )
    for path, named in _named_files(folder):
        if not isinstance(named, str) or Path(named).name != named:
            raise InputError(
                f"the checkpoint in {folder} is not in one folder: {path.name} names the file {named!r}"
            )


def _named_files(folder: Path) -> Iterator[tuple[Path, Any]]:
    """The weight files that each index names; what is no index is left to transformers' own message."""
    for path in folder.glob("*.index.json"):
        try:
            names = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
        except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
            continue
        yield from ((path, named) for named in {str(name): name for name in names}.values())
