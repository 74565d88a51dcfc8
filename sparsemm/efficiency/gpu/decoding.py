"""Whole models as shapes on the device: FullKV and methods at one prompt length, and larger batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sparsemm.efficiency.backbone import Backbone, shape_subject
from sparsemm.efficiency.clocks import release
from sparsemm.efficiency.contenders import Contender, contenders, methods_of
from sparsemm.efficiency.decode import group_of, measure_group
from sparsemm.efficiency.decode_bench import READ, Plan
from sparsemm.efficiency.steps import Decoding
from sparsemm.methods import FullKV

BUDGET = 256
METHODS = ("sparsemm", "snapkv", "adakv")
BACKEND = "triton"
COMPILED: tuple[Decoding, ...] = ("compiled",)


@dataclass(frozen=True)
class Sizes:
    """How a group is measured: see `decode_bench.Plan`; `layers` cuts the shapes, None leaves them whole."""

    steps: int
    warm_up: int
    rounds: int
    layers: int | None
    dtype: torch.dtype
    budget: int


FULL = Sizes(steps=16, warm_up=2, rounds=2, layers=None, dtype=torch.bfloat16, budget=BUDGET)
CUT = Sizes(steps=2, warm_up=1, rounds=1, layers=1, dtype=torch.float32, budget=40)


class Models:
    """Makes a shape's model, and keeps the last: steps of one shape follow each other."""

    def __init__(self, device: torch.device, sizes: Sizes, positions: int) -> None:
        self.device, self.sizes, self.positions = device, sizes, positions
        self._backbone: Backbone | None = None

    def of(self, shape: str) -> Backbone:
        """The model with random weights."""
        if self._backbone is None or self._backbone.subject.name != shape:
            self.drop()
            subject = shape_subject(shape, self.sizes.layers, self.positions, self.sizes.dtype)
            self._backbone = Backbone(subject, self.device)
        return self._backbone

    def drop(self) -> None:
        """Free the last one."""
        self._backbone = None
        release()


def against_context(
    models: Models,
    shape: str,
    prompt_tokens: int,
    decodings: tuple[Decoding, ...],
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Rows of ``decode.csv``: FullKV in each form, and the methods."""
    backbone = models.of(shape)
    names = METHODS[:1] if decodings == COMPILED else METHODS
    scores = backbone.subject.head_scores
    methods = methods_of(names, [models.sizes.budget], backbone.subject.window, lambda: scores)
    rivals = contenders(methods, decodings)
    if decodings == COMPILED:  # a graph takes most of a minute: FullKV in one form, and one method
        rivals = [rival for rival in rivals if rival.cache == "static" or rival.method.evicts]
    return _measured(models, shape, prompt_tokens, 1, rivals, report)


def batched(
    models: Models,
    shape: str,
    prompt_tokens: int,
    batch_size: int,
    method: str,
    report: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Rows of ``decode.csv`` of one method ("fullkv": in two forms), in a batch that may not fit."""
    backbone = models.of(shape)
    rivals = [Contender(FullKV(), "static", "graph"), Contender(FullKV(), "ragged", "graph")]
    if method != "fullkv":
        scores = backbone.subject.head_scores
        [found] = methods_of([method], [models.sizes.budget], backbone.subject.window, lambda: scores)
        rivals = [Contender(found, "ragged", "graph")]
    return _measured(models, shape, prompt_tokens, batch_size, rivals, report, rounds=1)


def _measured(
    models: Models,
    shape: str,
    prompt_tokens: int,
    batch_size: int,
    rivals: list[Contender],
    report: Callable[[str], None],
    rounds: int | None = None,
) -> list[dict[str, Any]]:
    sizes, backbone = models.sizes, models.of(shape)
    plan = Plan(READ, prompt_tokens, batch_size, sizes.steps, sizes.warm_up, rounds or sizes.rounds, BACKEND)
    group = group_of(backbone.subject, plan, rivals, models.device)
    return measure_group(backbone, group, report)
