"""How a file of ``eval_configs/ablation/`` becomes an ablation, once for every fraction and seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparsemm.configs import InputError, nearest
from sparsemm.evaluation.methods import load_head_scores, one_a_seed, scores_label, target_of
from sparsemm.heads import HeadScores
from sparsemm.heads.ablation import Ablation

FRACTIONS = (0, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Shares of heads where none are given; 0 is the model as it is."""


@dataclasses.dataclass(frozen=True, eq=False)
class NamedAblation:
    """An ablation, the name of its configuration, and the name and hash of its file of head scores."""

    name: str
    rule: Ablation
    head_scores: str

    def parameters(self) -> dict[str, Any]:
        """What it was built with, head scores left out (a file stands for them)."""
        fields = [field.name for field in dataclasses.fields(self.rule) if field.name != "head_scores"]
        return {name: getattr(self.rule, name) for name in fields}

    def described(self) -> dict[str, Any]:
        """What tables say of it: its parameters, how many heads it switches off, and by which head scores."""
        return {**self.parameters(), "heads": self.rule.count, "head_scores": self.head_scores}


def expand_ablations(config: Mapping[str, Any], fingerprint: str | None) -> list[NamedAblation | None]:
    """All ablations of a sweep; None stands for the model as it is.

    Parameters
    ----------
    config : mapping
        The resolved configuration: ``ablations``, ``fraction``, and ``model.head_scores``. Without ablations
        it gives the model as it is; with some, ``fraction`` 0 does.
    fingerprint : str or None
        The model's, to refuse head scores that were measured on another one.

    Raises
    ------
    InputError, ValueError
        Unknown parameters, missing head scores, or values that an ablation refuses.
    """
    ablations = config.get("ablations") or {}
    if not ablations:
        return [None]
    found: list[NamedAblation | None] = []
    for fraction in fractions(config):
        named = [] if fraction == 0 else list(_named(config, ablations, fraction, fingerprint))
        check_distinct(named)
        found += named or [None]
    return found


def check_distinct(named: Sequence[NamedAblation]) -> None:
    """Refuse two configurations of one fraction that switch off the same: only one would be measured.

    Raises
    ------
    InputError
        Their names.
    """
    seen: dict[tuple[Any, ...], str] = {}
    for one in named:
        what = (type(one.rule), one.head_scores, *sorted(one.parameters().items()))
        if seen.setdefault(what, one.name) != one.name:
            raise InputError(
                f"ablations {seen[what]} and {one.name} are the same (mode {one.rule.mode}): leave one out, "
                f"or give it another mode (ablations.{one.name}.mode)"
            )


def fractions(config: Mapping[str, Any]) -> list[Any]:
    """A share of heads or a list of them, as a list; `FRACTIONS` where there is an ablation and no share.

    Raises
    ------
    InputError
        For an empty list, what is no share, or shares without an ablation that they are for.
    """
    given = config["fraction"]
    if given is None:
        return list(FRACTIONS)
    if not config.get("ablations"):
        raise InputError(
            "fraction is for an ablation, and none is chosen (ablation=[mask_visual,mask_random])"
        )
    values = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    if not values:
        raise InputError("no fraction of heads given (fraction=[0,0.1])")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise InputError(f"fraction must be a share of the heads in [0, 1], got {value!r}")
    return values


def _named(
    config: Mapping[str, Any], ablations: Mapping[str, Any], fraction: Any, fingerprint: str | None
) -> Iterator[NamedAblation]:
    for name, parameters in one_a_seed(ablations, "ablation"):
        chosen = parameters.get("head_scores") or config["model"]["head_scores"]
        rule = build_ablation(name, parameters, fraction, chosen, fingerprint)
        yield NamedAblation(name, rule, scores_label(chosen))


def build_ablation(
    name: str,
    parameters: Mapping[str, Any],
    fraction: float,
    head_scores: str | HeadScores | None,
    fingerprint: str | None = None,
) -> Ablation:
    """Make an ablation from its configuration.

    Parameters
    ----------
    name : str
        Of its configuration, for messages.
    parameters : mapping
        A file of ``ablation/``: ``_target_`` and the ablation's own parameters.
    fraction : float
        Share of all query heads.
    head_scores : path, HeadScores or None
        The file to use, or what is in it.
    fingerprint : str, optional
        As in `expand_ablations`.

    Raises
    ------
    InputError
        Unknown parameter, missing head scores, another model's head scores.
    ValueError
        A value that the ablation refuses.
    """
    target = target_of(parameters)
    parameters = {key: value for key, value in parameters.items() if key != "_target_"}
    fields = [field.name for field in dataclasses.fields(target) if field.name != "fraction"]
    for key in parameters:
        if key not in fields:
            raise InputError(f"{target.__name__} has no parameter {key!r}; {nearest(key, fields)}")
    parameters["head_scores"] = load_head_scores(head_scores, f"ablation {name}", fingerprint)
    return target(fraction, **parameters)
