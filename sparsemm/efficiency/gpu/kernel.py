"""The decode kernel on the device: whether it is right, and what share of the copy bandwidth it reaches."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sparsemm.cache.decode import ragged_attention
from sparsemm.cache.storage import FlatStorage
from sparsemm.efficiency.clocks import Clock, copy_bandwidth
from sparsemm.efficiency.gpu.obvious import error_of, random_query, storage_of
from sparsemm.efficiency.graphs import captured
from sparsemm.efficiency.shapes import PAPER, SHAPES, Shape, synthetic_scores
from sparsemm.methods import ModelShape, SparseMM

TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}
"""Largest error that is right, by dtype: see `obvious.error_of`."""

HEAD_DIM = 128
SCALING = HEAD_DIM**-0.5
BUDGET, WINDOW, ROOM = 256, 32, 64
ALL, EVEN, BY_SCORE = "all", "even", "by head score"

COLUMNS: dict[str, str] = {
    "heads": "query heads",
    "kv_heads": "KV heads; head_dim is 128, numbers are bfloat16",
    "kept": "all: the whole prompt of 32K tokens; even: 256 entries in each KV head; by head score: 256 on "
    "average, shared out by SparseMM with synthetic head scores",
    "entries": "kept in a layer, all KV heads together, mean over the layers",
    "longest": "most entries of a KV head",
    "layers": "read one after the other, as a model does",
    "microseconds": "of one layer, median; launches replayed from a CUDA graph",
    "gb_s": "10^9 bytes of K and V read in a second",
    "share_of_copy": "gb_s over what a copy reads and writes in a second",
    "over_even": "microseconds by head score over even",
}
"""Columns of ``kernel.csv``."""

IDENTITY = ("heads", "kv_heads", "kept", "layers")
"""Those that say what was measured."""

CALLS = 20
"""Timed turns through all layers, of which the median counts."""


@dataclass(frozen=True)
class Sizes:
    """What is tried.

    Attributes
    ----------
    lengths
        Entries of the KV heads of one row, for each case of the check.
    groups
        Query heads for each KV head.
    shapes
        Of the timed cases.
    context
        Prompt tokens of the timed cases.
    layers
        Of the timed cases whose entries are few; they are read in turn, as a model does, so that no cache of
        the device holds them.
    """

    lengths: tuple[tuple[int, ...], ...]
    groups: tuple[int, ...]
    shapes: tuple[str, ...]
    context: int
    layers: int


FULL = Sizes(
    lengths=((1,), (64, 65, 63), (356,) * 8, (1, 3000, 7, 64), (32_768, 5), (130,) * 31 + (4_000,)),
    groups=(1, 4, 7, 8),
    shapes=PAPER,
    context=32_768,
    layers=32,
)
CUT = Sizes(lengths=((1, 70), (20, 20)), groups=(3,), shapes=("small",), context=100, layers=2)


def check(device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Compare the kernel with float64 in every case.

    Returns
    -------
    dict
        How many cases there were, and the largest error by dtype.

    Raises
    ------
    RuntimeError
        When it is wrong in one of them.
    """
    worst: dict[str, float] = {}
    cases = 0
    for (dtype, most), lengths, group, static in product(
        TOLERANCES.items(), sizes.lengths, sizes.groups, (False, True)
    ):
        for appended in (0, 1, 70):
            storage = storage_of(
                [lengths], HEAD_DIM, HEAD_DIM, dtype, device, slack=appended + 2, static=static, seed=cases
            )
            if appended:
                storage.append(*_entries(storage, appended, cases))
            new = _entries(storage, 1, cases)
            query = random_query(storage, 1, group, 1, cases)
            error = error_of(storage, query, SCALING, new=new)
            name = str(dtype).removeprefix("torch.")
            worst[name] = max(worst.get(name, 0.0), error)
            cases += 1
            if not error < most:
                raise RuntimeError(
                    f"the kernel is wrong: {name}, lengths {lengths}, group {group}, {appended} appended"
                    f"{', static' * static}: error {error:.2g}, right is at most {most:g}"
                )
    return {"cases": cases, **{f"worst_error_{name}": error for name, error in worst.items()}}


def _entries(storage: FlatStorage, tokens: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random K and V of so many tokens."""
    generator = torch.Generator().manual_seed(seed + 1_000)
    shape = (2, 1, storage.heads, tokens, storage.keys.shape[1])
    key, value = torch.randn(shape, generator=generator).to(storage.keys.device, storage.keys.dtype)
    return key, value


def rates(device: torch.device, sizes: Sizes) -> list[dict[str, Any]]:
    """Time the kernel for whole prompts, and for a budget shared out evenly and by head scores.

    Returns
    -------
    list of dict
        Rows of ``kernel.csv``: see `COLUMNS`.
    """
    bandwidth, dtype = copy_bandwidth(device), torch.bfloat16
    rows: list[dict[str, Any]] = []
    even = math.nan
    for shape, kept, counts in _cases(sizes):
        kv_heads = shape.num_key_value_heads
        storages = [
            storage_of([row], HEAD_DIM, HEAD_DIM, dtype, device, slack=ROOM, static=True, seed=number)
            for number, row in enumerate(counts)
        ]
        query = random_query(storages[0], 1, shape.num_attention_heads // kv_heads, 1)

        def turn(storages: list[FlatStorage] = storages, query: Tensor = query) -> None:
            for storage in storages:
                ragged_attention(query, storage, SCALING)

        seconds = _median_seconds(captured(turn, device, 2), device) / len(counts)
        entries = sum(map(sum, counts)) / len(counts)
        rate = 2 * HEAD_DIM * dtype.itemsize * entries / seconds
        if kept == EVEN:
            even = seconds
        rows.append(
            {
                "heads": shape.num_attention_heads,
                "kv_heads": kv_heads,
                "kept": kept,
                "entries": entries,
                "longest": max(map(max, counts)),
                "layers": len(counts),
                "microseconds": seconds * 1e6,
                "gb_s": rate / 1e9,
                "share_of_copy": rate / bandwidth,
                "over_even": seconds / even if kept == BY_SCORE else None,
            }
        )
    return rows


def _cases(sizes: Sizes) -> Iterator[tuple[Shape, str, list[list[int]]]]:
    """The paper's models, what is kept of the prompt, and how many entries in each layer and KV head."""
    budget = min(BUDGET, sizes.context // 2)
    for name in sizes.shapes:
        shape = SHAPES[name]
        kv_heads = shape.num_key_value_heads
        model = ModelShape(sizes.layers, shape.num_attention_heads, kv_heads, HEAD_DIM)
        method = SparseMM(budget, synthetic_scores(model), window=WINDOW)
        # Few layers of whole prompts: each is larger than any cache of the device.
        yield shape, ALL, [[sizes.context] * kv_heads] * min(4, sizes.layers)
        yield shape, EVEN, [[budget] * kv_heads] * sizes.layers
        yield shape, BY_SCORE, (method.allocation(sizes.context - WINDOW, model) + WINDOW).tolist()


def _median_seconds(turn: Callable[[], None], device: torch.device) -> float:
    clock, marks = Clock(device), []
    for _ in range(3):
        turn()
    for _ in range(CALLS):
        start = clock.mark()
        turn()
        marks.append((start, clock.mark()))
    clock.wait()
    return statistics.median(clock.seconds(*pair) for pair in marks)
