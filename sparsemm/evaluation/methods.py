"""How a file of ``eval_configs/method/`` becomes a method."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
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
    head_scores: str | Path | HeadScores | None = None,
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
    head_scores : path or HeadScores, optional
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
    target = target_of(parameters)
    parameters = {name: value for name, value in parameters.items() if name != "_target_"}
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
        parameters["head_scores"] = load_head_scores(chosen, f"method {target.name}", fingerprint)
    return target(**parameters)


def target_of(parameters: Mapping[str, Any]) -> type[Any]:
    """The dataclass that a method's or an ablation's ``_target_`` names, wherever its module is.

    Raises
    ------
    InputError
        If there is none.
    """
    target = parameters.get("_target_")
    if target is None:
        raise InputError(f"a method or ablation needs a _target_, which {dict(parameters)} lacks")
    try:
        found = resolve_name(str(target))
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"_target_ {target!r} cannot be imported: {error}; "
            "a module of your own must be found by Python (PYTHONPATH=FOLDER)"
        ) from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise InputError(f"_target_ {target!r} is no dataclass")
    return found


def load_head_scores(path: str | Path | HeadScores | None, user: str, fingerprint: str | None) -> HeadScores:
    """Head scores for a method or an ablation (`user`, for messages), checked to be of this model.

    Raises
    ------
    InputError
        No file is named, or it is another model's.
    """
    if path is None:
        raise InputError(
            f"{user} needs head scores and the model names none: "
            "give a file (model.head_scores=FILE) or measure them (sparsemm heads)"
        )
    if isinstance(path, HeadScores):
        return path
    scores = HeadScores.load(given_or_shipped(str(path)))
    if fingerprint is not None:
        try:
            scores.check_model(fingerprint)
        except ValueError as error:
            raise InputError(f"the head scores {path} cannot be used: {error}") from None
    return scores


def scores_label(path: str) -> str:
    """What tables call a file of head scores: its name, and the start of its content's hash."""
    file: Path = given_or_shipped(path)
    return f"{file.name}@{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


def one_a_seed(
    configured: Mapping[str, Mapping[str, Any]], kind: str = "method"
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and parameters of methods or ablations; those with a list of seeds come once for each of them.

    Raises
    ------
    InputError
        For an empty list.
    """
    for name, parameters in configured.items():
        seeds = parameters.get("seed")
        if not isinstance(seeds, Sequence) or isinstance(seeds, str):
            yield name, parameters
            continue
        if not seeds:
            raise InputError(f"{kind} {name} has no seed ({kind}s.{name}.seed=[0,1])")
        for seed in seeds:
            yield name, {**parameters, "seed": seed}
