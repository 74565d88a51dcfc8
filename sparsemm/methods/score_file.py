"""Reading files of head scores: hits as safetensors with a JSON card beside them, or the released JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sparsemm.methods.released import read_released

SCHEMA_VERSION = 1


def read_scores(path: str | Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read the hits [images, layers, query heads] and their card; of the released JSON, one image's means.

    Raises
    ------
    FileNotFoundError
        The file, or the card beside it, is missing.
    ValueError
        Not such a file, or an incomplete one; the numbers are not looked at.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no head scores at {path}")
    try:
        if path.suffix == ".json":
            return read_released(path.read_text(encoding="utf-8"))[None], {"rule": "released"}
        hits = load_file(path).get("hits")
        if hits is None:
            raise ValueError("it holds no tensor 'hits'")
        card_path = path.with_suffix(".json")
        if not card_path.exists():
            raise FileNotFoundError(f"{path} has no card beside it: {card_path.name}")
        card = json.loads(card_path.read_text(encoding="utf-8"))
        _check_card(card, card_path.name, hits)
        return hits, card
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} holds no usable head scores: {error}") from error


def _check_card(card: Any, name: str, hits: np.ndarray) -> None:
    """Refuse a card that is none, is newer than this code, or belongs to other hits."""
    if not isinstance(card, dict):
        raise ValueError(f"its card {name} is no JSON object")
    if card.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ValueError(
            f"its card {name} has schema_version {card['schema_version']}, "
            f"this sparsemm reads {SCHEMA_VERSION}"
        )
    if card.get("shape", list(hits.shape)) != list(hits.shape):
        raise ValueError(
            f"its card {name} describes other scores: shape {card['shape']}, the file's is {list(hits.shape)}"
        )
