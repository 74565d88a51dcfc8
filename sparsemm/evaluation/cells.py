"""Cells: one fully resolved (model, task, prompt, ablation, method, budget), and what names its file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from sparsemm.configs import InputError
from sparsemm.evaluation.ablations import NamedAblation, expand_ablations
from sparsemm.evaluation.methods import build_method, one_a_seed, scores_label
from sparsemm.evaluation.prefill import Prefill
from sparsemm.evaluation.tables import IMAGE_QUESTION, PROMPTS, variant
from sparsemm.methods import KVMethod

COLUMN_PARAMETERS = ("budget", "window", "head_scores", "overflow", "rounding", "seed")
"""Parameters of a method that have a column of their own; the rest goes into ``method_params``."""


@dataclass(frozen=True)
class Cell:
    """One cell of a sweep.

    Attributes
    ----------
    model, task, method_name, metric : str
        Configuration names, and the metric that is the score.
    method : KVMethod
        Built, so that a bad parameter is found before anything runs.
    head_scores : str
        Name and hash of the head scores' file; empty if neither method nor ablation uses any.
    prompt : str
        One of `sparsemm.evaluation.tables.PROMPTS`.
    ablation : NamedAblation or None
        Heads that are switched off.
    group : str
        Hash of all that cells must share to be compared: model, task, generation settings.
    id : str
        Hash of group, prompt, ablation, and the method with all its parameters: the name of the cell's file.
    model_id : str
        Hash of what the model's answers depend on: in one folder, one for each name.
    run, key : str
        The same without the limit of documents, in two parts, what a prefill depends on and the method: what
        names a response.
    """

    model: str
    task: str
    metric: str
    method_name: str
    method: KVMethod
    head_scores: str
    prompt: str
    ablation: NamedAblation | None
    group: str
    id: str
    model_id: str
    run: str
    key: str

    def columns(self) -> dict[str, Any]:
        """The columns of ``cells.csv`` that say what was run."""
        parameters = own_parameters(self.method)
        rest = {name: value for name, value in parameters.items() if name not in COLUMN_PARAMETERS}
        masked = {} if self.ablation is None else self.ablation.described()
        parameters.setdefault("seed", masked.get("seed"))
        return {
            "model": self.model,
            "task": self.task,
            "metric": self.metric,
            "method": self.method_name,
            "head_scores": self.head_scores or None,
            "method_params": json.dumps(rest, sort_keys=True),
            **{name: parameters.get(name) for name in COLUMN_PARAMETERS if name != "head_scores"},
            "prompt": self.prompt,
            "ablation": self.ablation and self.ablation.name,
            "fraction": masked.pop("fraction", None),
            "ablation_params": json.dumps(masked, sort_keys=True) if masked else None,
        }

    @property
    def variant(self) -> str:
        """What the cell is called beside its budget."""
        row = self.columns()
        return variant(row["method"], row["prompt"], row["ablation"], row["fraction"])

    @property
    def prefill(self) -> Prefill:
        """What the cell shares with all others of its `run`."""
        if self.ablation is None:
            return Prefill(self.prompt)
        rule = self.ablation.rule
        return Prefill(self.prompt, torch.from_numpy(rule.heads()), rule.mode)


def own_parameters(method: KVMethod) -> dict[str, Any]:
    """The parameters a method was built with, head scores left out (a file stands for them)."""
    fields = [
        field.name for field in dataclasses.fields(method) if field.init and field.name != "head_scores"
    ]
    return {name: getattr(method, name) for name in fields}


def hash_of(identity: Any) -> str:
    """Sixteen hex digits of an identity (anything JSON can hold)."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def expand(
    config: Mapping[str, Any],
    *,
    model_identity: Mapping[str, Any],
    task_identities: Mapping[str, Mapping[str, Any]],
) -> list[Cell]:
    """All cells of a sweep: tasks, in them prompts, ablations, methods, seeds, budgets.

    A method without a budget gives one cell, however many budgets and prompts there are; one whose ``seed``
    is a list has cells for each of them.

    Parameters
    ----------
    config : mapping
        The resolved configuration of a sweep (``eval_configs/sweep.yaml``).
    model_identity : mapping
        What the model's answers depend on (fingerprint, dtype, attention).
    task_identities : mapping
        The same for each task: data, prompts, generation settings.

    Raises
    ------
    InputError, ValueError
        Unknown parameters, or values that a method refuses.
    """
    model = config["model"]
    cells: dict[str, Cell] = {}
    built = list(_methods(config, model_identity["checkpoint"]))
    masked = expand_ablations(config, model_identity["checkpoint"])
    for task, task_config in config["tasks"].items():
        setting = {"model": model_identity, "max_new_tokens": config["max_new_tokens"]}
        group = hash_of({**setting, "task": {**task_identities[task], "limit": config["limit"]}})
        for given, ablation, (name, method, scores, identity) in product(
            prompts(config["prompt"]), masked, built
        ):
            prompt = given if method.evicts else IMAGE_QUESTION  # a whole prompt is the same in both forms
            shown = _shown(prompt, ablation)
            cell = Cell(
                model=model["name"],
                task=task,
                metric=task_config["metric"],
                method_name=name,
                method=method,
                head_scores=scores or ("" if ablation is None else ablation.head_scores),
                prompt=prompt,
                ablation=ablation,
                group=group,
                id=hash_of({"group": group, "method": identity, **shown}),
                model_id=hash_of(model_identity),
                run=hash_of({**setting, "task": task_identities[task], **shown}),
                key=hash_of(identity),
            )
            cells.setdefault(cell.id, cell)
    return list(cells.values())


def _methods(
    config: Mapping[str, Any], fingerprint: str
) -> Iterator[tuple[str, KVMethod, str, dict[str, Any]]]:
    """Every method under every seed and budget: its name, itself, its head scores' label, its identity."""
    for name, parameters in one_a_seed(config["methods"]):
        chosen = parameters.get("head_scores") or config["model"]["head_scores"]
        for budget in budgets(config["budget"]):
            method = build_method(
                parameters,
                budget=budget,
                window=config["model"]["window"],
                head_scores=chosen,
                fingerprint=fingerprint,
            )
            scores = scores_label(chosen) if hasattr(method, "head_scores") else ""
            identity = {
                "class": parameters["_target_"],
                "parameters": own_parameters(method),
                "head_scores": scores.rpartition("@")[2],
            }
            yield name, method, scores, identity


def _shown(prompt: str, ablation: NamedAblation | None) -> dict[str, Any]:
    """The part of an identity that only departures from the ordinary have: others keep their names."""
    identity: dict[str, Any] = {} if prompt == IMAGE_QUESTION else {"prompt": prompt}
    if ablation is not None:
        identity["ablation"] = {
            "class": type(ablation.rule).__name__,
            "parameters": ablation.parameters(),
            "head_scores": ablation.head_scores.rpartition("@")[2],
        }
    return identity


def prompts(value: Any) -> list[str]:
    """A form of prompts or a list of them, as a list.

    Raises
    ------
    InputError
        For an unknown one, or none.
    """
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise InputError(f"no form of prompts given (prompt=[{','.join(PROMPTS)}])")
    for one in values:
        if one not in PROMPTS:
            raise InputError(f"prompt must be {' or '.join(PROMPTS)}, or a list of both, got {one!r}")
    return values


def budgets(value: Any) -> Sequence[Any]:
    """A budget or a list of budgets, as a list."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise InputError("no budget given (budget=[16,32])")
    return values
