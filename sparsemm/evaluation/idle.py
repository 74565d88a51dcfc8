"""Options that have no effect in a configuration, and why: whoever gives one means something else."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sparsemm.evaluation.ablations import fractions
from sparsemm.evaluation.cells import prompts
from sparsemm.evaluation.methods import target_of
from sparsemm.evaluation.tables import IMAGE_QUESTION


def of_sweep(config: Mapping[str, Any]) -> dict[str, str]:
    """Options of ``eval_configs/sweep.yaml`` without an effect, by name, and why.

    Raises
    ------
    InputError
        A method or an ablation that is none; fractions or forms of prompts that are none.
    """
    idle = _of_methods(config, (config.get("methods") or {}, config.get("ablations") or {}))
    idle["model.ocr_prompt"] = "a sweep's tasks ask their own questions"
    if config.get("rate") is not None and config.get("plan") is False:
        idle["rate"] = "it is for a plan (plan=true)"
    if "budget" in idle and set(prompts(config["prompt"])) != {IMAGE_QUESTION}:
        idle["prompt"] = idle["budget"]
    if config.get("ablations") and not any(fractions(config)):
        idle["ablation"] = idle["ablations"] = "a fraction of 0 switches no head off"
    return idle


def of_doctor(config: Mapping[str, Any]) -> dict[str, str]:
    """Options of ``eval_configs/doctor.yaml`` without an effect, by name, and why.

    Raises
    ------
    InputError
        A method that is none.
    """
    idle = _of_methods(config, (config.get("methods") or {},))
    if "budget" in idle:
        idle["backend"] = idle["budget"]
    if config.get("prompt"):
        idle["model.ocr_prompt"] = "prompt takes its place"
    return idle


def _of_methods(config: Mapping[str, Any], chosen: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What methods (first) and ablations leave without an effect: budget, window and head scores."""
    methods = chosen[0]
    if not methods:
        return {}
    idle = {}
    targets = {name: target_of(parameters) for name, parameters in methods.items()}
    if not any(getattr(target, "evicts", True) for target in targets.values()):
        idle["budget"] = (
            f"{' and '.join(targets)} evicts nothing; choose a method that does (method=[snapkv])"
        )
    for name, of_all in (("window", chosen[:1]), ("head_scores", chosen)):
        if not any(_takes(name, parameters) for group in of_all for parameters in group.values()):
            what = "nothing that is chosen uses them" if name == "head_scores" else "no chosen method uses it"
            idle[f"model.{name}"] = what
    if config["model"].get("device_map"):
        idle["device"] = "model.device_map says where the model is"
    return idle


def _takes(name: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a method or an ablation takes the model's value of a parameter: it has one, and none given."""
    fields = {field.name for field in dataclasses.fields(target_of(parameters)) if field.init}
    return name in fields and parameters.get(name) is None
