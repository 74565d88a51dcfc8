"""Cells: one fully resolved (model, task, method, budget), and the identity that names its file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsemm.configs import InputError, given_or_shipped
from sparsemm.evaluation.methods import build_method
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
        Name and hash of the head scores' file; empty if the method uses none.
    group : str
        Hash of all that cells must share to be compared: model, task, generation settings.
    id : str
        Hash of the group and the method with all its parameters: the name of the cell's file.
    run, key : str
        The same without the limit of documents, in two parts, run and method: what names a response.
    """

    model: str
    task: str
    metric: str
    method_name: str
    method: KVMethod
    head_scores: str
    group: str
    id: str
    run: str
    key: str

    def columns(self) -> dict[str, Any]:
        """The columns of ``cells.csv`` that say what was run."""
        parameters = own_parameters(self.method)
        rest = {name: value for name, value in parameters.items() if name not in COLUMN_PARAMETERS}
        return {
            "model": self.model,
            "task": self.task,
            "metric": self.metric,
            "method": self.method_name,
            "head_scores": self.head_scores or None,
            "method_params": json.dumps(rest, sort_keys=True),
            **{name: parameters.get(name) for name in COLUMN_PARAMETERS if name != "head_scores"},
        }


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
    """All cells of a sweep: tasks, in them methods, in them seeds, in them budgets.

    A method without a budget gives one cell a task, however many budgets there are; one whose ``seed`` is a
    list has cells for each of them.

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
    for task, task_config in config["tasks"].items():
        setting = {"model": model_identity, "max_new_tokens": config["max_new_tokens"]}
        run = hash_of({**setting, "task": task_identities[task]})
        group = hash_of({**setting, "task": {**task_identities[task], "limit": config["limit"]}})
        for name, parameters in one_a_seed(config["methods"]):
            chosen = parameters.get("head_scores") or model["head_scores"]
            for budget in budgets(config["budget"]):
                method = build_method(
                    parameters,
                    budget=budget,
                    window=model["window"],
                    head_scores=chosen,
                    fingerprint=model_identity["checkpoint"],
                )
                scores = _scores_label(chosen) if hasattr(method, "head_scores") else ""
                method_identity = {
                    "class": parameters["_target_"],
                    "parameters": own_parameters(method),
                    "head_scores": scores.rpartition("@")[2],
                }
                cell = Cell(
                    model=model["name"],
                    task=task,
                    metric=task_config["metric"],
                    method_name=name,
                    method=method,
                    head_scores=scores,
                    group=group,
                    id=hash_of({"group": group, "method": method_identity}),
                    run=run,
                    key=hash_of(method_identity),
                )
                cells.setdefault(cell.id, cell)
    return list(cells.values())


def one_a_seed(methods: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and parameters of methods; those with a list of seeds come once for each of them."""
    for name, parameters in methods.items():
        seeds = parameters.get("seed")
        if not isinstance(seeds, Sequence) or isinstance(seeds, str):
            yield name, parameters
            continue
        if not seeds:
            raise InputError(f"method {name} has no seed (methods.{name}.seed=[0,1])")
        for seed in seeds:
            yield name, {**parameters, "seed": seed}


def budgets(value: Any) -> Sequence[Any]:
    """A budget or a list of budgets, as a list."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values:
        raise InputError("no budget given (budget=[16,32])")
    return values


def _scores_label(path: str) -> str:
    file: Path = given_or_shipped(path)
    return f"{file.name}@{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
