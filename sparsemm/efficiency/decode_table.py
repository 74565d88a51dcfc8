"""The table of the decode benchmark: what every column means, its rows, and the record beside it."""

from __future__ import annotations

import csv
import json
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sparsemm.configs import EMBEDDED, InputError, names, read, recorded
from sparsemm.efficiency.backbone import Backbone
from sparsemm.efficiency.contenders import Contender
from sparsemm.efficiency.decode_bench import Measurement, Plan, Samples
from sparsemm.efficiency.machine import cpu_name
from sparsemm.recording import git_commit, versions, write_atomically, write_json

SCHEMA_VERSION = 2
"""Raised whenever a column is added or changes its meaning."""

IDENTITY: dict[str, str] = {
    "shape": "name of the shape, or of the checkpoint's configuration",
    "weights": "random, or the checkpoint's fingerprint",
    "layers": "layers of the text backbone that were run",
    "layers_of": "layers that the real model has: where `layers` is smaller, the model was cut",
    "prompt": "read: random token ids went through the model; drawn: only the caches were filled, "
    "with random K and V",
    "prompt_tokens": "length of the prompt",
    "batch_size": "prompts at the same time",
    "method": "what is kept",
    "budget": "nominal entries per (layer, KV head), window included; empty for FullKV",
    "cache": "dynamic, static: transformers' caches with its SDPA; ragged: RaggedCache, of FullKV too",
    "decoding": "how decode steps ran. eager: every operation launched by Python; graph: one step captured "
    "as a CUDA graph and replayed; compiled: torch.compile, reduce-overhead",
    "backend": "decode backend that was asked for; default: what the cache takes by itself",
    "head_scores": "file of head scores, or synthetic: seeded, the best 5% of the heads hold 55%",
    "rounds": "times that everything was measured, one contender after the other in each round",
    "new_tokens": "decode steps that were timed, in all rounds together",
    "dtype": "number format of weights, K and V",
    "device": "what it ran on",
    "threads": "of torch",
    "schema_version": "version of these columns",
}
"""Columns that say what was measured: a row that agrees in them is not measured again."""

COLUMNS: dict[str, str] = {
    **IDENTITY,
    "heads": "query heads",
    "kv_heads": "KV heads",
    "head_dim": "numbers in a key",
    "decoded_by": "decode backend that ran; empty: nothing was evicted, SDPA ran",
    "realised_budget": "mean entries kept per (layer, KV head)",
    "prefill_s": "seconds of the prompt's forward, compression included, median of the rounds; empty: drawn",
    "compress_s": "seconds of selecting and compacting, all layers: between marks on the device's stream "
    "before and after, median of the rounds; empty for FullKV",
    "compress_share": "compress_s over prefill_s, median of the rounds",
    "prefill_ratio": "fastest FullKV's prefill_s in the same run over prefill_s",
    "decode_ms": "milliseconds of a decode step (a token in every row of the batch), median of all steps",
    "decode_ms_q1": "first quartile",
    "decode_ms_q3": "third quartile",
    "ratio": "fastest FullKV in the same run, whatever holds it, over this row: decode_ms of the rounds, "
    "divided round by round, median",
    "ratio_min": "least of the rounds",
    "ratio_max": "greatest of the rounds",
    "ratio_stock": "the same over the fastest FullKV in a cache of transformers' own, with its SDPA; median",
    "weight_bytes": "weights of the text backbone and its output layer",
    "kept_bytes": "K and V of the kept prompt entries",
    "kv_bytes": "allocated by the cache after the prompt",
    "slack_bytes": "part of kv_bytes that waits for further tokens",
    "floor_bytes": "what a token must read: weights without an input embedding of its own, and kept_bytes",
    "bandwidth_gb_s": "10^9 bytes read and written in a second of copying, measured in the same run",
    "floor_ms": "floor_bytes over the bandwidth",
    "times_floor": "decode_ms over floor_ms",
    "peak_prefill_bytes": "most memory above the weights while the prompt was read; with CUDA tensors, else "
    "the process's resident set, which knows pages, not tensors: coarse below 100 MB",
    "peak_decode_bytes": "likewise while generating, cache included",
    "failed": "why there are no numbers; empty: there are",
    "date": "when the row was finished, UTC",
}
"""Columns of ``decode.csv``, one row for each contender, shape, length and batch size."""

SHOWN = {
    "shape": "shape",
    "layers": "layers",
    "prompt_tokens": "prompt",
    "batch_size": "batch",
    "method": "method",
    "budget": "budget",
    "cache": "cache",
    "decoding": "decoding",
    "prefill_s": "prefill s",
    "compress_share": "compress",
    "decode_ms": "ms/token",
    "ratio": "FullKV/",
    "times_floor": "/floor",
    "kv_bytes": "KV bytes",
    "failed": "failed",
}
"""Columns for the terminal and their headings; a stroke is a division."""


def path_of(folder: Path) -> Path:
    """Where the table is."""
    return folder / "decode.csv"


def read_table(folder: Path) -> list[dict[str, str]]:
    """The rows of ``decode.csv`` that are finished, as text.

    Raises
    ------
    InputError
        The folder holds another version's table.
    """
    return read_csv(path_of(folder), COLUMNS)


def read_csv(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a table as text; none where there is no file.

    Raises
    ------
    InputError
        It has other columns.
    """
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if list(reader.fieldnames or []) != list(columns):
        raise InputError(f"{path} has other columns than this version's: name another folder (output=...)")
    return rows


def write_table(folder: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write ``decode.csv``, all at once."""
    return write_csv(path_of(folder), COLUMNS, rows)


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write these columns of the rows, all at once."""
    names = list(columns)

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: as_text(row.get(name)) for name in names} for row in rows)

    write_atomically(path, write)
    return path


def as_text(value: Any) -> str:
    """A value as the table holds it: six digits of what is no integer."""
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def key_of(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What a row is the measurement of."""
    return tuple(as_text(row[name]) for name in IDENTITY)


def measured_row(
    backbone: Backbone, plan: Plan, samples: Samples, measured: Measurement, rivals: Sequence[Contender]
) -> dict[str, Any]:
    """The columns of one contender that were measured.

    Parameters
    ----------
    backbone, plan
        What was measured, and how.
    samples
        The contender's.
    measured, rivals
        All of the group's.
    """
    shape = backbone.subject.shape
    row: dict[str, Any] = {
        "heads": shape.num_attention_heads,
        "kv_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "weight_bytes": backbone.weight_bytes,
        "bandwidth_gb_s": measured.bandwidth / 1e9,
        "failed": samples.failed,
        "date": now(),
    }
    if samples.failed or samples.held is None:
        return row
    held, rounds = samples.held, range(plan.rounds)
    full = [
        (rival, found)
        for rival, found in zip(rivals, measured.samples, strict=True)
        if not (rival.method.evicts or found.failed)
    ]
    times = sorted(step * 1e3 for steps in samples.steps for step in steps)
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    floor_bytes = backbone.read_bytes + held.kept_bytes
    floor_ms = floor_bytes / measured.bandwidth * 1e3
    row |= {
        "decoded_by": samples.decoded_by,
        "realised_budget": held.realised_budget,
        "compress_s": statistics.median(samples.compress) if samples.compress else None,
        "decode_ms": middle,
        "decode_ms_q1": low,
        "decode_ms_q3": high,
        "kept_bytes": held.kept_bytes,
        "kv_bytes": held.kv_bytes,
        "slack_bytes": held.slack_bytes,
        "floor_bytes": floor_bytes,
        "floor_ms": floor_ms,
        "times_floor": middle / floor_ms,
        "peak_prefill_bytes": samples.peak_prefill,
        "peak_decode_bytes": samples.peak_decode,
    }
    if samples.prefill:
        row["prefill_s"] = statistics.median(samples.prefill)
        if samples.compress:
            shares = [samples.compress[number] / samples.prefill[number] for number in rounds]
            row["compress_share"] = statistics.median(shares)
        if full:
            fastest = min(statistics.median(found.prefill) for _, found in full)
            row["prefill_ratio"] = fastest / row["prefill_s"]
    if ratios := _ratios([found for _, found in full], samples):
        row |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    if stock := _ratios([found for rival, found in full if rival.cache != "ragged"], samples):
        row["ratio_stock"] = statistics.median(stock)
    return row


def _ratios(full: Sequence[Samples], samples: Samples) -> list[float]:
    """The fastest of some runs over another, round by round."""
    if not full:
        return []
    best = min(full, key=lambda found: statistics.median(step for steps in found.steps for step in steps))
    return [
        statistics.median(one) / statistics.median(other)
        for one, other in zip(best.steps, samples.steps, strict=True)
    ]


def now() -> str:
    """The moment, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_record(folder: Path) -> dict[str, Any]:
    """The runs that the folder's record tells of.

    Raises
    ------
    InputError
        It is another file.
    """
    path = folder / "decode.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8"))["runs"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no record of this benchmark: move it away") from None


def write_record(folder: Path, runs: Mapping[str, Any]) -> Path:
    """Write ``decode.json``: of every run into the folder, by the moment it began, its `record`."""
    path = folder / "decode.json"
    write_json(
        path,
        {
            "schema_version": SCHEMA_VERSION,
            "shapes": "random weights, text backbones only; prompts are random token ids or drawn K and V; "
            "where `layers` is below `layers_of` the model was cut to its first layers",
            "runs": dict(runs),
        },
    )
    return path


def record(config: Mapping[str, Any]) -> dict[str, Any]:
    """By which command, on what, and with what a run measures."""
    cuda = torch.cuda.is_available()
    return {
        "command": command_of(config),
        "machine": {
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if cuda else None,
            "cuda": torch.version.cuda if cuda else None,
        },
        "versions": {
            "python": platform.python_version(),
            **versions(("torch", "transformers", "triton", "sparsemm")),
        },
        "git_commit": git_commit(),
    }


def command_of(config: Mapping[str, Any]) -> str:
    """The command that gives a configuration, without its output folder."""
    config = recorded(config)
    usual = {**read("benchmark", config["benchmark"]), "device": None}
    options = {name: config[name] for name in usual if config[name] != usual[name]}
    model = config["model"]
    if model["name"] not in names("model"):
        options = {"model.pretrained": model["pretrained"], **options}
    elif model["name"] != EMBEDDED:
        options = {"model": model["name"], **options}
    shown = (f"{name}={_option(value)}" for name, value in options.items())
    return " ".join(("python -m sparsemm.efficiency", config["benchmark"], *shown))


def _option(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(_option, value)) + "]"
    if value is None or isinstance(value, bool):  # by type: 1 equals True
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
