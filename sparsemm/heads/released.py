"""The JSON of head scores that the authors of SparseMM released: ``{"layer-head": [numbers], …}``."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

_PLACE = re.compile(r"(0|[1-9]\d*)-(0|[1-9]\d*)")


def read_released(text: str) -> np.ndarray:
    """Return the scores [layers, query heads], float64: the mean of each head's numbers.

    Heads are placed by their names, whatever the order of the file; lists may differ in length.

    Raises
    ------
    ValueError
        It is no such table, names a head twice or leaves one out, or a head has no numbers, or one that is
        negative or not finite.
    """
    table = json.loads(text, object_pairs_hook=_once)
    if isinstance(table, dict) and "schema_version" in table:
        raise ValueError("it is the card of scores, not the scores: name the .safetensors beside it")
    if not isinstance(table, dict) or not table or not all(map(_PLACE.fullmatch, table)):
        raise ValueError(
            'expected {"layer-head": [numbers], …}; for a file of this package name the .safetensors'
        )
    places: dict[tuple[int, int], float] = {}
    for name, numbers in table.items():
        layer, head = map(int, name.split("-"))
        places[layer, head] = _mean(name, numbers)
    layers, heads = (1 + max(place[axis] for place in places) for axis in (0, 1))
    if len(places) != layers * heads:
        whole = ((layer, head) for layer in range(layers) for head in range(heads))
        layer, head = next(place for place in whole if place not in places)
        raise ValueError(
            f"{len(places)} heads are no full table of {layers} layers x {heads} heads: "
            f"{layer}-{head} is missing"
        )
    return np.array([[places[layer, head] for head in range(heads)] for layer in range(layers)])


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different; JSON itself would keep the last of equal ones."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} stands there twice")
    return table


def _mean(name: str, numbers: Any) -> float:
    good = isinstance(numbers, list) and numbers
    for number in numbers if good else ():
        good = good and isinstance(number, int | float) and not isinstance(number, bool)
    if not good:
        raise ValueError(f"{name} must have a list of numbers, got {json.dumps(numbers)[:60]}")
    for number in numbers:
        if not math.isfinite(number) or number < 0:
            raise ValueError(f"scores must be finite and not negative, {name} has {number}")
    return math.fsum(numbers) / len(numbers)
