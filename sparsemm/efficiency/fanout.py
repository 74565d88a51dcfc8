"""What a whole grid costs from one prefill: the benchmark's options, cells and files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from sparsemm.configs import InputError, given_or_shipped
from sparsemm.efficiency import Measured, Report
from sparsemm.efficiency.contenders import methods_of
from sparsemm.efficiency.fanout_bench import Bench, Options
from sparsemm.efficiency.fanout_table import SCHEMA_VERSION, SHOWN, write_record, write_table
from sparsemm.heads import HeadScores
from sparsemm.methods import FullKV, KVMethod, SparseMM
from sparsemm.models.checkpoint import check_settings
from sparsemm.models.loading import device_name, load


def run(config: Mapping[str, Any], report: Report) -> Measured:
    """Measure, and write ``fanout.csv`` and ``fanout.json`` into ``config["output"]``.

    Parameters
    ----------
    config
        ``eval_configs/efficiency.yaml`` with ``benchmark/fanout.yaml``, resolved.
    report
        Called before every timed run.

    Raises
    ------
    InputError, ValueError
        Wrong options, found before anything runs.
    """
    options = Options(**{name: config[name] for name in Options.__dataclass_fields__})
    check_settings(config["model"], config["device"])
    cells = grid(config)
    if options.separate >= len(cells):
        raise InputError(f"separate must be below the number of cells ({len(cells)}), got {options.separate}")
    model = config["model"]
    report(0, options.steps, "loading the model")
    logging.disable_progress_bar()
    checkpoint = load(model, config["device"])
    bench = Bench(checkpoint, cells, options, report)
    rows = [row for name in options.workloads for row in bench.measure(name)]
    common = {
        "model": model["name"],
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
        "device": device_name(checkpoint.device),
        "threads": torch.get_num_threads(),
        "schema_version": SCHEMA_VERSION,
    }
    rows = [{**row, **common} for row in rows]
    folder = Path(config["output"])
    write_record(folder, config)
    return Measured(write_table(folder, rows), rows, SHOWN)


def grid(config: Mapping[str, Any]) -> list[KVMethod]:
    """The cells: FullKV, then every method at every budget."""
    model = config["model"]

    def head_scores() -> HeadScores:
        if model["head_scores"] is None:
            raise InputError(f"method {SparseMM.name} needs head scores and the model names none")
        return HeadScores.load(given_or_shipped(model["head_scores"]))

    for name in ("methods", "budgets"):
        if not isinstance(config[name], list):
            raise InputError(f"{name} must be a list, got {config[name]!r}")
    cells = [FullKV(), *methods_of(config["methods"], config["budgets"], model["window"], head_scores)]
    if len(cells) == 1:
        raise InputError("nothing to do: give at least one method and one budget")
    return cells
