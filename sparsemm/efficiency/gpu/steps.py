"""The programme's list: what is measured on a GPU, in order of worth, with what each step takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from sparsemm.efficiency.gpu import decoding, fanout, kernel, machine, tokens
from sparsemm.efficiency.gpu.decoding import Models
from sparsemm.efficiency.shapes import PAPER
from sparsemm.efficiency.steps import Decoding

DECODE, KERNEL = "decode.csv", "kernel.csv"
EAGER_AND_GRAPH: tuple[Decoding, ...] = ("eager", "graph")
GRAPH: tuple[Decoding, ...] = ("graph",)


@dataclass(frozen=True)
class Found:
    """What a step gives: single numbers for the record, and rows of a table."""

    numbers: Mapping[str, Any]
    table: str | None = None
    rows: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Step:
    """One entry of the list.

    Attributes
    ----------
    name
        In the record.
    seconds
        Estimate on one H100, the model's making included.
    about
        What it tells, in one line.
    run
        Does it; is given what reports its turns.
    """

    name: str
    seconds: float
    about: str
    run: Callable[[Callable[[str], None]], Found]


@dataclass(frozen=True)
class Sizes:
    """Sizes of all steps: `FULL` for a GPU, `CUT` to try the programme in seconds on a CPU."""

    matrix: int
    kernel: kernel.Sizes
    tokens: tokens.Sizes
    decoding: decoding.Sizes
    fanout: fanout.Sizes
    shapes: tuple[str, ...]
    long: int
    short: int
    batch_context: int
    batches: tuple[tuple[str, int], ...]


FULL = Sizes(
    matrix=8192,
    kernel=kernel.FULL,
    tokens=tokens.FULL,
    decoding=decoding.FULL,
    fanout=fanout.FULL,
    shapes=PAPER,
    long=32_768,
    short=2048,
    batch_context=8192,
    # The largest that fit into 80 GB, and the sizes between.
    batches=(
        ("fullkv", 4),
        ("sparsemm", 4),
        ("fullkv", 12),
        ("sparsemm", 16),
        ("sparsemm", 48),
        ("fullkv", 16),
    ),
)
CUT = Sizes(
    matrix=64,
    kernel=kernel.CUT,
    tokens=tokens.CUT,
    decoding=decoding.CUT,
    fanout=fanout.CUT,
    shapes=("small",),
    long=96,
    short=64,
    batch_context=64,
    batches=(("fullkv", 2), ("sparsemm", 2)),
)


def programme(model: Mapping[str, Any], device: torch.device, sizes: Sizes) -> list[Step]:
    """The steps in order; `model` is the embedded model's file of ``eval_configs/model``."""
    room = sizes.decoding.steps + sizes.decoding.warm_up + 1
    models = Models(device, sizes.decoding, sizes.long + room)
    first = sizes.shapes[0]

    def at(shape: str, length: int, decodings: tuple[Decoding, ...], report: Callable[[str], None]) -> Found:
        rows = decoding.against_context(models, shape, length, decodings, report)
        return Found({}, DECODE, tuple(rows))

    def in_batches(report: Callable[[str], None]) -> Found:
        rows = []
        for method, batch_size in sizes.batches:
            rows += decoding.batched(models, first, sizes.batch_context, batch_size, method, report)
        return Found({}, DECODE, tuple(rows))

    steps = [
        Step(
            "machine", 5, "name, driver, versions, copy bandwidth, matrix products",
            lambda report: Found(machine.describe(device, sizes.matrix)),
        ),
        Step(
            "kernel", 50, "the decode kernel against float64",
            lambda report: Found(kernel.check(device, sizes.kernel)),
        ),
        Step(
            "rates", 12, "the decode kernel's share of the copy bandwidth, even and uneven heads",
            lambda report: Found({}, KERNEL, tuple(kernel.rates(device, sizes.kernel))),
        ),
        Step(
            "tokens", 30, "the embedded model's tokens, equal to the CPU's with every method and backend",
            lambda report: Found(tokens.compare(model, device, sizes.tokens)),
        ),
    ]  # fmt: skip
    steps += [
        Step(
            f"{shape} at {length}", seconds, f"FullKV and methods, {' and '.join(decodings)} steps",
            partial(at, shape, length, decodings),
        )
        for shape in sizes.shapes
        for length, seconds, decodings in ((sizes.long, 60, EAGER_AND_GRAPH), (sizes.short, 15, GRAPH))
    ]  # fmt: skip
    steps += [
        Step(
            "fan-out", 40, "a grid of cells over one FullKV run",
            lambda report: Found(fanout.cost(models, first, sizes.fanout)),
        ),
        Step("batches", 50, "tokens per second in the largest batches that fit", in_batches),
        Step(
            f"{first} at {sizes.long}, compiled", 100, "the same with torch.compile's reduce-overhead",
            partial(at, first, sizes.long, decoding.COMPILED),
        ),
    ]  # fmt: skip
    return steps
