"""What a grid of cells costs from one prefill, for a whole model of the paper's size."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsemm.cache import fan_out
from sparsemm.cache.greedy import GREEDY
from sparsemm.efficiency.clocks import Clock
from sparsemm.efficiency.contenders import methods_of
from sparsemm.efficiency.gpu.decoding import Models
from sparsemm.methods import FullKV, KVMethod

METHODS = ("snapkv", "pyramidkv", "adakv", "sparsemm", "random")


@dataclass(frozen=True)
class Sizes:
    """The grid: FullKV, and each method at each budget, for so many prompts at the same time."""

    documents: int
    prompt_tokens: int
    new_tokens: int
    budgets: tuple[int, ...]
    rounds: int


FULL = Sizes(
    documents=8, prompt_tokens=2400, new_tokens=10, budgets=(64, 96, 128, 192, 256, 512, 1024), rounds=3
)
CUT = Sizes(documents=2, prompt_tokens=80, new_tokens=3, budgets=(40,), rounds=1)


def cost(models: Models, shape: str, sizes: Sizes) -> dict[str, Any]:
    """Time the grid, FullKV alone under ``generate``, and FullKV alone under fan-out's own loop, in turns.

    Returns
    -------
    dict
        Seconds (least of the rounds), and the grid's over the faster of the two FullKV runs.
    """
    backbone = models.of(shape)
    scores = backbone.subject.head_scores
    cells: list[KVMethod] = [
        FullKV(),
        *methods_of(METHODS, sizes.budgets, backbone.subject.window, lambda: scores),
    ]
    ids = backbone.random_ids(sizes.documents, sizes.prompt_tokens)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    model = backbone.model

    def grid() -> int:
        return fan_out(model, inputs, cells, max_new_tokens=sizes.new_tokens).rows

    def alone() -> int:
        return fan_out(model, inputs, cells[:1], max_new_tokens=sizes.new_tokens).rows

    def stock() -> int:
        found: Tensor = model.generate(**inputs, max_new_tokens=sizes.new_tokens, **GREEDY)
        return len(found)

    took: dict[str, list[float]] = {"grid": [], "generate": [], "own_loop": []}
    rows = 0
    for number in range(sizes.rounds + 1):  # the first loads kernels, and counts for nothing
        for name, attention, action in (
            ("grid", "sparsemm", grid),
            ("generate", "sdpa", stock),
            ("own_loop", "sparsemm", alone),
        ):
            backbone.attend_with(attention)
            seconds, count = _timed(action, models.device)
            rows = count if name == "grid" else rows
            if number:
                took[name].append(seconds)
    least = {f"{name}_s": min(seconds) for name, seconds in took.items()}
    full = min(least["generate_s"], least["own_loop_s"])
    return {
        "shape": shape,
        "cells": len(cells),
        "documents": sizes.documents,
        "rows": rows,
        "prompt_tokens": sizes.prompt_tokens,
        "new_tokens": sizes.new_tokens,
        "rounds": sizes.rounds,
        **least,
        "grid_s_median": statistics.median(took["grid"]),
        "over_fullkv": least["grid_s"] / full,
    }


def _timed(action: Callable[[], int], device: torch.device) -> tuple[float, int]:
    """Seconds of an action that the host and the device do together, and what it gives."""
    clock = Clock(device)
    clock.wait()
    start = time.perf_counter()
    with torch.inference_mode():
        found = action()
    clock.wait()
    return time.perf_counter() - start, found
