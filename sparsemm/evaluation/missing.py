"""What a sweep needs and this machine lacks: model, data, head scores, Java."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from rich.console import Console

from sparsemm.configs import EMBEDDED, InputError, names
from sparsemm.evaluation import official, official_data
from sparsemm.evaluation.ablations import NamedAblation, build_ablation, check_distinct, fractions
from sparsemm.evaluation.cells import budgets, hash_of, own_parameters, prompts
from sparsemm.evaluation.methods import build_method, one_a_seed, target_of
from sparsemm.evaluation.tables import IMAGE_QUESTION
from sparsemm.heads import HeadScores
from sparsemm.models.checkpoint import locate

ANY_SCORES = HeadScores(np.ones((1, 32, 32), dtype=np.float32))
"""In the place of head scores that were not measured, so that all other parameters can be looked at."""


@dataclass(frozen=True)
class Missing:
    """What is not on this machine.

    Attributes
    ----------
    name : str
        Of the model.
    chosen : str
        How it is chosen: ``model=NAME``, or ``model.pretrained=FOLDER``.
    model : str or None
        The checkpoint's name on the hub.
    data : dict
        Official tasks without data here: name -> dataset on the hub.
    head_scores : tuple of str
        Methods and ablations that need head scores, where the model has none.
    java : tuple of str
        Tasks that are scored with Java, where there is none.
    """

    name: str
    chosen: str
    model: str | None
    data: Mapping[str, str]
    head_scores: tuple[str, ...]
    java: tuple[str, ...]

    def lines(self) -> list[str]:
        """One line for each thing: what it is, and how it comes here."""
        found = []
        if self.model:
            found.append(
                f"the model {self.model} is not on this machine: it is downloaded from the hub, "
                "or model.pretrained=FOLDER"
            )
        found += [
            f"the dataset {path} is not on this machine: it is downloaded from the hub, "
            f"or tasks.{task}.data_files=FILE"
            for task, path in self.data.items()
        ]
        return found + self.unobtainable()

    def unobtainable(self) -> list[str]:
        """Those of the lines that no hub helps with."""
        found = []
        if self.head_scores:
            found.append(
                f"head scores of {self.name}, for {' and '.join(self.head_scores)}, were not measured yet: "
                f"sparsemm heads {self.chosen}, then model.head_scores=FILE"
            )
        if self.java:
            found.append(f"{' and '.join(self.java)}: scoring needs Java, and there is no `java` on the PATH")
        return found

    def __bool__(self) -> bool:
        return bool(self.lines())


def what_is_missing(config: Mapping[str, Any]) -> Missing:
    """Look what a sweep's configuration needs and this machine lacks; nothing is asked of the hub.

    Raises
    ------
    InputError
        Local files of a task that cannot be used.
    """
    model, data, java = config["model"], {}, []
    for task, options in config["tasks"].items():
        if task not in official.BENCHMARKS:
            continue
        if official.BENCHMARKS[task].java and shutil.which("java") is None:
            java.append(task)
        if options.get("data_files"):
            official.local_files(task, options)
            continue
        path, name = official.source(task)
        # What was prepared here does not say of which revision it is.
        if options.get("revision") or not official_data.is_cached(path, name):
            data[task] = path
    own = model["name"] not in names("model")
    return Missing(
        model["name"],
        f"model.pretrained={model['pretrained']}" if own else f"model={model['name']}",
        None if _is_here(model["pretrained"]) else model["pretrained"],
        data,
        tuple(
            name
            for group in ("methods", "ablations")
            for name, parameters in (config.get(group) or {}).items()
            if _lacks_scores(parameters, model)
        ),
        tuple(java),
    )


def require(config: Mapping[str, Any]) -> None:
    """Stop in one line where a sweep cannot run: before anything is loaded, or downloaded.

    Raises
    ------
    InputError
        What is missing and does not come from the hub, or that the hub cannot be reached or refuses.
    """
    lacking = what_is_missing(config)
    found = lacking.unobtainable()
    for task, path in lacking.data.items():
        reason = official_data.refusal(path, config["tasks"][task].get("revision"))
        if reason is None and official.BENCHMARKS[task].login and not official_data.logged_in():
            reason = f"the code of {task} wants a login to the hub (`hf auth login`)"
        if reason is not None:
            found.insert(0, _to_local_files(reason, lacking))
            break
    if found:
        raise InputError("; ".join(found))


def _to_local_files(reason: str, lacking: Missing) -> str:
    options = [f"tasks.{task}.data_files=FILE" for task in lacking.data]
    if lacking.model:
        options.insert(0, "model.pretrained=FOLDER")
    return f"{reason}; not on this machine, and can be given: {' '.join(options)}"


def _is_here(pretrained: str) -> bool:
    """Whether a checkpoint is on this machine; what is neither a folder nor a name on the hub is refused."""
    here = pretrained == EMBEDDED or Path(pretrained).exists() or pretrained.count("/") != 1
    if here or pretrained.startswith((".", "/", "~")):
        locate(pretrained)
        return True
    try:
        snapshot_download(pretrained, local_files_only=True)
    except Exception:  # it raises many kinds: nothing is cached, or not all
        return False
    return True


def _lacks_scores(parameters: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    if "head_scores" not in (field.name for field in fields(target_of(parameters))):
        return False
    return not (parameters.get("head_scores") or model.get("head_scores"))


def print_missing(config: Mapping[str, Any], lacking: Missing, console: Console) -> None:
    """Print a plan where something is missing: each task's number of cells, and what is missing.

    Which cells are finished cannot be said: their identities depend on what is not here.

    Raises
    ------
    InputError, ValueError
        Wrong parameters of a method.
    """
    cells = count_cells(config)
    for task in config["tasks"]:
        console.print(f"{task}: {cells} cells")
    for line in lacking.lines():
        console.print(f"missing: {line}")
    console.print(f"{cells * len(config['tasks'])} cells; nothing was run (plan=true)")


def count_cells(config: Mapping[str, Any]) -> int:
    """How many cells each task has, as `sparsemm.evaluation.cells.expand` would make them."""
    return sum(count for _, count in count_prefills(config))


def count_prefills(config: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Each prefill of a task's documents, the form of its prompts and the number of cells that share it.

    Raises
    ------
    InputError, ValueError
        Wrong parameters of a method or an ablation. What needs head scores that were not measured is looked
        at with others in their place.
    """
    model, cells = config["model"], set()
    shown, scores = prompts(config["prompt"]), model.get("head_scores") or ANY_SCORES
    for name, parameters in one_a_seed(config["methods"]):
        for budget in budgets(config["budget"]):
            method = build_method(parameters, budget=budget, window=model["window"], head_scores=scores)
            identity = hash_of([name, parameters["_target_"], own_parameters(method)])
            cells |= {(prompt if method.evicts else IMAGE_QUESTION, identity) for prompt in shown}
    prefills = Counter(prompt for prompt, _ in cells)
    ablations, masks = config.get("ablations") or {}, 0
    for fraction in set(fractions(config)) if ablations else {0}:
        named = [
            NamedAblation(one, build_ablation(one, chosen, fraction, chosen.get("head_scores") or scores), "")
            for one, chosen in one_a_seed(ablations, "ablation")
            if fraction != 0
        ]
        check_distinct(named)
        masks += len(named) or 1
    return [*prefills.items()] * masks
