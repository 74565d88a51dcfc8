"""The table ``fanout.csv``: what every column means, how it is written, what stands beside it."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from sparsemm.configs import recorded
from sparsemm.efficiency.machine import cpu_name
from sparsemm.recording import git_commit, versions, write_atomically, write_json

SCHEMA_VERSION = 1
"""Raised whenever a column is added or changes its meaning."""

COLUMNS: dict[str, str] = {
    "workload": "what was asked: lookup (short answers) or transcription (long ones)",
    "measured": "fanout: all cells from one prefill; generate: FullKV by transformers' generate with SDPA; "
    "own_loop: FullKV by fan-out's loop; separate: a full run with real eviction (RaggedCache) for each cell",
    "cells": "methods x budgets that the seconds are for",
    "documents": "pages, each with one question",
    "batch_size": "documents per batch; of generate and own_loop the fastest tried, of separate generate's",
    "rounds": "times that everything was measured, one thing after the other in each round",
    "seconds_min": "fastest round: all documents, from tokenised prompts with images to generated tokens; "
    "of separate: `cells` times the mean over the measured cells",
    "seconds_median": "likewise, median of the rounds",
    "prompt_tokens": "mean prompt tokens of a document, padding not counted",
    "new_tokens": "mean generated tokens of a response, the end token included",
    "rows_per_document": "rows decoded for a document: cells that keep the same entries share one; "
    "empty for separate",
    "ratio_to_generate": "seconds_min over generate's",
    "ratio_to_own_loop": "seconds_min over own_loop's",
    "times_cheaper_than_separate": "separate's seconds_min over fanout's; empty for all others",
    "extrapolated_from": "cells of separate that were really run; empty: everything was",
    "differing_documents": "documents any of whose responses is not, token by token, the fanned-out one; "
    "of separate in the cells that were run, of the others under FullKV; empty for fanout",
    "model": "name of the model's configuration",
    "dtype": "the model's number format",
    "device": "what it ran on",
    "threads": "of torch",
    "schema_version": "version of these columns",
}
"""Columns of ``fanout.csv``, one row for each workload and `measured`."""

SHOWN = {
    "workload": "workload",
    "measured": "measured",
    "batch_size": "batch",
    "seconds_min": "seconds",
    "ratio_to_generate": "/generate",
    "ratio_to_own_loop": "/own loop",
    "times_cheaper_than_separate": "separate/",
    "differing_documents": "differ",
}
"""Columns for the terminal and their headings; a stroke is a division."""

ALLOCATOR = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
"""Settings of glibc that keep large blocks from going back to the system; read when the process starts."""


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write ``fanout.csv``; numbers to four digits behind the point."""
    path = folder / "fanout.csv"

    def write(beside: Path) -> None:
        with beside.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(COLUMNS), lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({name: _rounded(row.get(name)) for name in COLUMNS})

    write_atomically(path, write)
    return path


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


def write_record(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write ``fanout.json``: when, on what and with what the table was measured."""
    path = folder / "fanout.json"
    libraries = ("torch", "transformers", "sparsemm")
    write_json(
        path,
        {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
            "allocator": allocator(),
            "config": recorded(config),
            "versions": {"python": platform.python_version(), **versions(libraries)},
            "git_commit": git_commit(),
            "schema_version": SCHEMA_VERSION,
        },
    )
    return path


def allocator() -> dict[str, str]:
    """The allocator's settings, or that they were not set."""
    return {name: os.environ.get(name, "not set: page faults are part of the seconds") for name in ALLOCATOR}
