"""Options of a benchmark that have no effect with its others, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHAPE_ONLY = ("ocr_prompt", "images_kwargs", "quantization", "device_map")
"""Settings of a model that its text backbone alone does not have."""


def of_benchmark(config: Mapping[str, Any]) -> dict[str, str]:
    """Options of ``eval_configs/efficiency.yaml`` without an effect, by name, and why."""
    benchmark = config.get("benchmark")
    if benchmark == "kvpress":
        return {"model": "kvpress measures a model of its own (layers, dtype)"}
    if benchmark == "gpu":
        return {"model": "the programme measures shapes, and checks the embedded model"}
    if benchmark not in ("decode", "fanout"):
        return {}
    shapes = config.get("shapes")
    if benchmark == "decode" and isinstance(shapes, list) and "checkpoint" not in shapes:
        return {"model": "shapes are measured; a checkpoint is one by shapes=[checkpoint]"}
    idle = {}
    methods = config.get("methods")
    if isinstance(methods, list) and "sparsemm" not in methods:
        idle["model.head_scores"] = "none of the methods uses them"
    if benchmark == "fanout":
        idle["model.ocr_prompt"] = "the workloads ask their own questions"
        if config["model"].get("device_map"):
            idle["device"] = "model.device_map says where the model is"
        return idle
    idle |= {f"model.{name}": "only the text backbone is measured" for name in SHAPE_ONLY}
    if config.get("dtype") is not None:
        idle["model.dtype"] = "dtype takes its place"
    return idle
