"""The same work under kvpress and under sparsemm: bytes held, time of a decode step, and the ratio of both.

kvpress wants another transformers, so each side runs `kvpress_peer.py` under a Python of its own, in turns.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sparsemm.configs import InputError, nearest, recorded
from sparsemm.efficiency import Measured, Report
from sparsemm.efficiency.decode_table import now, write_csv
from sparsemm.efficiency.machine import cpu_name
from sparsemm.models.loading import default_device, device_name, torch_device
from sparsemm.recording import git_commit, write_json

SCHEMA_VERSION = 1
"""Raised whenever a column is added or changes its meaning."""

METHODS = ("snapkv", "adakv")
"""Methods that both have."""

ENGINES = ("kvpress", "sparsemm")

COLUMNS: dict[str, str] = {
    "prompt_tokens": "length of the prompt; random token ids",
    "method": "what is kept; fullkv: transformers' DynamicCache with SDPA, in each environment",
    "budget": "nominal entries per (layer, KV head), window included; empty for FullKV",
    "engine": "kvpress or sparsemm",
    "realised_budget": "mean entries per (layer, KV head) that a decode step can see",
    "kv_bytes": "allocated after the prompt for K and V, room for new tokens (sparsemm) and lists of masked "
    "entries (kvpress) included",
    "bytes_of_full": "kv_bytes over those of FullKV in the same environment",
    "prefill_s": "seconds of the prompt's forward, compression included, median of the rounds",
    "decode_ms": "milliseconds of a decode step, median of all steps",
    "decode_ms_q1": "first quartile",
    "decode_ms_q3": "third quartile",
    "ratio": "FullKV in the same environment over this row: decode_ms of the rounds, divided round by round, "
    "median",
    "ratio_kvpress": "kvpress over sparsemm: decode_ms of the rounds, divided round by round, median; empty "
    "for kvpress",
    "same_tokens": "share of the generated tokens before the first in which the engines differ; empty for "
    "kvpress",
    "rounds": "times that everything was measured, one environment after the other in each round",
    "new_tokens": "decode steps that were timed in a round",
    "layers": "of the model: Llama with random weights, hidden size 1024, 32 query heads, 8 KV heads, "
    "head_dim 128",
    "dtype": "number format of weights, K and V",
    "device": "what it ran on",
    "threads": "of torch",
    "date": "when the length was finished, UTC",
    "schema_version": "version of these columns",
}
"""Columns of ``kvpress.csv``, one row for each prompt length, method and engine."""

SHOWN = {
    "prompt_tokens": "prompt",
    "method": "method",
    "engine": "engine",
    "realised_budget": "realised",
    "kv_bytes": "KV bytes",
    "bytes_of_full": "/FullKV",
    "decode_ms": "ms/token",
    "ratio": "FullKV/",
    "ratio_kvpress": "kvpress/",
    "same_tokens": "same tokens",
}
"""Columns for the terminal and their headings; a stroke is a division."""


@dataclass(frozen=True)
class Options:
    """The options of ``eval_configs/benchmark/kvpress.yaml``, which says what they mean.

    Raises
    ------
    InputError
        The first that cannot be meant.
    """

    python: str
    lengths: list[int]
    methods: list[str]
    budget: int
    window: int
    new_tokens: int
    warm_up: int
    rounds: int
    layers: int
    dtype: str

    def __post_init__(self) -> None:
        if not isinstance(self.python, str) or not Path(self.python).is_file():
            raise InputError(
                "python must be that of an environment with kvpress (docs/efficiency.md), "
                f"got {self.python!r}"
            )
        for name in ("budget", "window", "new_tokens", "warm_up", "rounds", "layers"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if self.budget < self.window:
            raise InputError(f"budget must be at least the window ({self.window}), got {self.budget}")
        if (
            not isinstance(self.lengths, list)
            or not self.lengths
            or not all(isinstance(length, int) and length > self.budget for length in self.lengths)
        ):
            raise InputError(f"lengths must be a list of numbers above the budget ({self.budget})")
        if not isinstance(self.methods, list):
            raise InputError(f"methods must be a list, got {self.methods!r}")
        for method in self.methods:
            if method not in METHODS:
                raise InputError(f"unknown method {method!r}; {nearest(method, METHODS)}")
        if self.dtype not in (known := ("float32", "bfloat16", "float16")):
            raise InputError(f"unknown dtype {self.dtype!r}; {nearest(str(self.dtype), known)}")


def run(config: Mapping[str, Any], report: Report) -> Measured:
    """Measure, and write ``kvpress.csv`` and ``kvpress.json`` into ``config["output"]``.

    Parameters
    ----------
    config
        ``eval_configs/efficiency.yaml`` with ``benchmark/kvpress.yaml``, resolved.
    report
        Called before every turn of an environment.

    Raises
    ------
    InputError
        Wrong options, or an environment that cannot do it, with its own last line.
    """
    options = Options(**{name: config[name] for name in Options.__dataclass_fields__})
    device = torch_device(config["device"] or default_device())
    pythons = {"kvpress": options.python, "sparsemm": sys.executable}
    rows: list[dict[str, Any]] = []
    installed: dict[str, Any] = {}
    total, turn = len(options.lengths) * options.rounds * len(ENGINES), 0
    for length in options.lengths:
        found: dict[str, list[Any]] = {engine: [] for engine in ENGINES}
        for number in range(1, options.rounds + 1):
            for engine in ENGINES:
                report(turn, total, f"{length} tokens, round {number}: {engine}")
                turn += 1
                task = {**vars(options), "engine": engine, "prompt_tokens": length, "device": str(device)}
                answer = _round(pythons[engine], task)
                found[engine].append(answer["methods"])
                installed[engine] = answer["versions"]
        common = {
            "rounds": options.rounds,
            "new_tokens": options.new_tokens,
            "layers": options.layers,
            "dtype": options.dtype,
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "date": now(),
            "schema_version": SCHEMA_VERSION,
        }
        rows += [row | common for row in _rows(options, length, found)]
    folder = Path(config["output"])
    write_json(
        folder / "kvpress.json",
        {
            "date": now(),
            "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
            "config": {**recorded(vars(options)), "python": Path(options.python).name},
            "versions": {"python": platform.python_version(), **installed},
            "git_commit": git_commit(),
            "schema_version": SCHEMA_VERSION,
        },
    )
    return Measured(write_csv(folder / "kvpress.csv", COLUMNS, rows), rows, SHOWN)


def _round(python: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """What one environment measured."""
    script = Path(__file__).with_name("kvpress_peer.py")
    # -P: the script's folder is no place to import from, it holds a file of kvpress's name
    done = subprocess.run(
        [python, "-P", str(script)], input=json.dumps(task), capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{task['engine']} under {python} failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def _rows(options: Options, length: int, found: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """A length's rows: every method under both engines."""
    rows = []
    for method in ("fullkv", *options.methods):
        for engine in ENGINES:
            runs = [answers[method] for answers in found[engine]]
            full = [answers["fullkv"] for answers in found[engine]]
            times = sorted(step for run in runs for step in run["steps_ms"])
            low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
            row = {
                "prompt_tokens": length,
                "method": method,
                "budget": None if method == "fullkv" else options.budget,
                "engine": engine,
                "realised_budget": runs[0]["realised_budget"],
                "kv_bytes": runs[0]["kv_bytes"],
                "bytes_of_full": runs[0]["kv_bytes"] / full[0]["kv_bytes"],
                "prefill_s": statistics.median(run["prefill_s"] for run in runs),
                "decode_ms": middle,
                "decode_ms_q1": low,
                "decode_ms_q3": high,
                "ratio": _ratio(full, runs),
            }
            if engine == "sparsemm":
                others = [answers[method] for answers in found["kvpress"]]
                row["ratio_kvpress"] = _ratio(others, runs)
                row["same_tokens"] = _agreement(others[0]["tokens"], runs[0]["tokens"])
            rows.append(row)
    return rows


def _ratio(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Median step of one over that of another, round by round; the median of the rounds."""
    pairs = zip(one, other, strict=True)
    return statistics.median(
        statistics.median(a["steps_ms"]) / statistics.median(b["steps_ms"]) for a, b in pairs
    )


def _agreement(one: Sequence[int], other: Sequence[int]) -> float:
    """Share of the tokens before the first that differs."""
    same = next((at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), len(one))
    return same / len(one)
