"""What a whole grid costs from one prefill, against one FullKV run and against separate runs: the measuring.

Everything runs in one process on the same tokenised prompts. Baselines take their fastest batch size. All
that is compared runs in every round, one after the other, so that a drift of the machine hits all alike.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sparsemm.configs import InputError, nearest
from sparsemm.efficiency import Report
from sparsemm.efficiency.answering import Answers, evicted, fanned_out, plain, stock_attention
from sparsemm.efficiency.workloads import WORKLOADS, batches
from sparsemm.methods import KVMethod
from sparsemm.methods.base import MOST
from sparsemm.models.loading import Checkpoint

TRIES = 2
"""Runs of each batch size before the fastest is chosen."""


@dataclass(frozen=True)
class Options:
    """The options of ``eval_configs/benchmark/fanout.yaml``, checked."""

    workloads: list[str]
    documents: int
    fanout_batch_size: int
    max_rows: int | None
    batch_sizes: list[int]
    separate: int
    rounds: int

    def __post_init__(self) -> None:
        for name in ("documents", "fanout_batch_size", "max_rows", "separate", "rounds"):
            value = getattr(self, name)
            if not (_is_count(value) or (name == "max_rows" and value is None)):
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        for name in ("workloads", "batch_sizes"):
            if not isinstance(getattr(self, name), list) or not getattr(self, name):
                raise InputError(f"{name} must be a list, got {getattr(self, name)!r}")
        if not self.batch_sizes or not all(map(_is_count, self.batch_sizes)):
            raise InputError(f"batch_sizes must be positive integers, got {self.batch_sizes!r}")
        for name in self.workloads:
            if name not in WORKLOADS:
                raise InputError(f"unknown workload {name!r}; {nearest(name, WORKLOADS)}")

    @property
    def steps(self) -> int:
        """Timed runs."""
        return len(self.workloads) * (2 * len(self.sizes) * TRIES + self.rounds * (3 + self.separate))

    @property
    def sizes(self) -> list[int]:
        """Batch sizes to try: none above the number of documents."""
        return sorted({min(size, self.documents) for size in self.batch_sizes})


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST


class Bench:
    """A loaded model, and the clock.

    Parameters
    ----------
    checkpoint
        The model.
    cells
        The grid, FullKV first.
    options
        What to run, and how often.
    report
        Called before every timed run.
    """

    def __init__(
        self, checkpoint: Checkpoint, cells: Sequence[KVMethod], options: Options, report: Report
    ) -> None:
        self.checkpoint, self.model = checkpoint, checkpoint.model
        self.cells, self.options, self.report = cells, options, report
        self.done = 0
        spread = np.linspace(1, len(cells) - 1, options.separate).round().astype(int)
        self.separate: list[int] = spread.tolist()

    def measure(self, name: str) -> list[dict[str, Any]]:
        """Measure one workload: the rows of the table, without what all rows have in common."""
        workload, options = WORKLOADS[name], self.options
        limit, cells = workload.max_new_tokens, self.cells
        pages = workload.pages(options.documents)
        wide = min(options.fanout_batch_size, options.documents)
        inputs = {size: batches(workload, pages, size, self.checkpoint) for size in {*options.sizes, wide}}

        def fan(size: int, methods: Sequence[KVMethod]) -> Callable[[], Answers]:
            return lambda: fanned_out(self.model, inputs[size], methods, limit, options.max_rows)

        def evicting(cell: int, size: int) -> Callable[[], Answers]:
            return lambda: evicted(self.model, inputs[size], cells[cell], limit)

        def stock(size: int) -> Callable[[], Answers]:
            return lambda: plain(self.model, inputs[size], limit)

        smallest = min(options.sizes)
        for warm in (fan(smallest, cells[:2]), evicting(1, smallest)):
            _timed(warm, self.checkpoint.device)
        best = {
            "generate": self._fastest(f"{name}: generate", stock, stock=True),
            "own_loop": self._fastest(f"{name}: own loop", lambda size: fan(size, cells[:1])),
        }
        runs: dict[str, Callable[[], Answers]] = {
            "fanout": fan(wide, cells),
            "generate": stock(best["generate"]),
            "own_loop": fan(best["own_loop"], cells[:1]),
            **{_label(cells[cell]): evicting(cell, best["generate"]) for cell in self.separate},
        }
        seconds: dict[str, list[float]] = {what: [] for what in runs}
        answers: dict[str, Answers] = {}
        for number in range(1, options.rounds + 1):
            for what, action in runs.items():
                text = f"{name}, round {number}: {what}"
                took, answers[what] = self._clock(text, action, stock=what == "generate")
                seconds[what].append(took)
        rows = self._rows(seconds, answers)
        sizes = {"fanout": wide, **best, "separate": best["generate"]}
        return [{"workload": name, "batch_size": sizes[row["measured"]], **row} for row in rows]

    def _fastest(self, text: str, make: Callable[[int], Callable[[], Answers]], stock: bool = False) -> int:
        """The batch size whose best of `TRIES` runs was fastest."""
        seconds: dict[int, float] = {}
        for _ in range(TRIES):
            for size in self.options.sizes:
                took, _answers = self._clock(f"{text}, batches of {size}", make(size), stock=stock)
                seconds[size] = min(took, seconds.get(size, took))
        return min(seconds, key=lambda size: seconds[size])

    def _clock(self, text: str, action: Callable[[], Answers], *, stock: bool) -> tuple[float, Answers]:
        self.report(self.done, self.options.steps, text)
        self.done += 1
        if not stock:
            return _timed(action, self.checkpoint.device)
        with stock_attention(self.model):
            return _timed(action, self.checkpoint.device)

    def _rows(
        self, seconds: Mapping[str, list[float]], answers: Mapping[str, Answers]
    ) -> list[dict[str, Any]]:
        fanned = answers["fanout"]
        apart = {_label(self.cells[cell]): cell for cell in self.separate}
        times = {what: seconds[what] for what in ("fanout", "generate", "own_loop")}
        times["separate"] = [
            len(self.cells) * statistics.fmean(took) for took in zip(*map(seconds.get, apart), strict=True)
        ]
        least = {what: min(took) for what, took in times.items()}
        least["separate"] = len(self.cells) * statistics.fmean(min(seconds[what]) for what in apart)
        rows = []
        for what, took in times.items():
            held = {0: answers[what]} if what in answers else {apart[cell]: answers[cell] for cell in apart}
            tokens = [row for found in held.values() for method in found.tokens for row in method]
            row = {
                "measured": what,
                "cells": len(self.cells) if what in ("fanout", "separate") else 1,
                "documents": self.options.documents,
                "rounds": self.options.rounds,
                "seconds_min": least[what],
                "seconds_median": statistics.median(took),
                "prompt_tokens": statistics.fmean(fanned.prompt_tokens),
                "new_tokens": statistics.fmean(map(len, tokens)),
                "ratio_to_generate": least[what] / least["generate"],
                "ratio_to_own_loop": least[what] / least["own_loop"],
            }
            if what == "separate":
                row["extrapolated_from"] = "; ".join(apart)
            else:
                row["rows_per_document"] = answers[what].rows / self.options.documents
            if what == "fanout":
                row["times_cheaper_than_separate"] = least["separate"] / least[what]
            else:
                row["differing_documents"] = _differing(fanned, held)
            rows.append(row)
        return rows


def _label(cell: KVMethod) -> str:
    """A cell in two words: ``snapkv 16``."""
    return f"{cell.name} {cell.budget}"


def _timed(action: Callable[[], Answers], device: torch.device) -> tuple[float, Answers]:
    """Seconds until everything is generated, and what was."""
    gc.collect()
    _wait(device)
    start = time.perf_counter()
    with torch.inference_mode():
        answers = action()
    _wait(device)
    return time.perf_counter() - start, answers


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _differing(fanned: Answers, held: Mapping[int, Answers]) -> int:
    """Documents with another response than the fanned-out one; `held` by the cell's place in the grid."""
    differing = {
        document
        for cell, answers in held.items()
        for document, tokens in enumerate(answers.tokens[0])
        if tokens != fanned.tokens[cell][document]
    }
    return len(differing)
