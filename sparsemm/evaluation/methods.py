"""How a file of ``eval_configs/method/`` becomes a method."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from sparsemm.configs import InputError, given_or_shipped, nearest
from sparsemm.heads import HeadScores
from sparsemm.methods import KVMethod


def build_method(
    parameters: Mapping[str, Any],
    *,
    budget: float | None,
    window: int,
    head_scores: str | Path | None = None,
    fingerprint: str | None = None,
) -> KVMethod:
    """Make a method from its configuration.

    Parameters
    ----------
    parameters : mapping
        A file of ``method/``: ``_target_`` and the method's own parameters.
    budget : int, float or None
        Nominal budget; may be None for a method that has none (FullKV).
    window : int
        Observation window of the model, in tokens; a ``window`` among the parameters wins.
    head_scores : path, optional
        The model's head scores, used where the method wants some and its configuration names none.
    fingerprint : str, optional
        The model's, to refuse head scores that were measured on another one.

    Raises
    ------
    InputError
        Unknown parameter, missing budget or head scores, another model's head scores.
    ValueError
        A value that the method refuses.
    """
    parameters = dict(parameters)
    target = resolve_name(parameters.pop("_target_"))
    fields = {field.name: field for field in dataclasses.fields(target) if field.init}
    for name in parameters:
        if name not in fields:
            raise InputError(f"{target.__name__} has no parameter {name!r}; {nearest(name, fields)}")
    if "budget" in fields:
        if budget is None:
            raise InputError(f"method {target.name} needs a budget (budget=64)")
        parameters["budget"] = budget
    if "window" in fields:
        parameters.setdefault("window", window)
    if "head_scores" in fields:
        chosen = parameters.get("head_scores") or head_scores
        if chosen is None:
            raise InputError(
                f"method {target.name} needs head scores and the model names none: "
                "give a file (head_scores=FILE) or measure them (sparsemm heads)"
            )
        parameters["head_scores"] = scores = HeadScores.load(given_or_shipped(str(chosen)))
        if fingerprint is not None:
            try:
                scores.check_model(fingerprint)
            except ValueError as error:
                raise InputError(f"the head scores {chosen} cannot be used: {error}") from None
    return target(**parameters)
