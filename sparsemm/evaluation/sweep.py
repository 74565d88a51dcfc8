"""The sweep: every cell of a grid in one process, finished cells skipped, tables written after each cell."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sparsemm.configs import InputError
from sparsemm.evaluation import tasks
from sparsemm.evaluation.cells import Cell, expand
from sparsemm.evaluation.results import cell_file, derive_tables, write_cell, write_run
from sparsemm.evaluation.tables import SCHEMA_VERSION, STORED_SAMPLES
from sparsemm.evaluation.terminal import cell_name, documents_progress
from sparsemm.models.checkpoint import fingerprint, locate

if TYPE_CHECKING:
    import pandas as pd

    from sparsemm.evaluation.model import SparseMMChat


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a sweep gave: its cells, the results folder, and the folder's table (``cells.csv``)."""

    cells: list[Cell]
    folder: Path
    table: pd.DataFrame


def run(config: Mapping[str, Any]) -> Outcome:
    """Measure all cells of a configuration that are not finished yet.

    Parameters
    ----------
    config : mapping
        ``eval_configs/sweep.yaml``, resolved.

    Returns
    -------
    Outcome
        Its folder holds ``cells/<id>.json``, ``cells.csv``, ``samples.parquet`` and ``run.json``.

    Raises
    ------
    InputError, ValueError
        Wrong options, found before anything runs.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    cells = plan(config)
    folder = Path(config["output"])
    missing = [cell for cell in cells if not cell_file(folder, cell.id).is_file()]
    if done := len(cells) - len(missing):
        console.print(f"{done} of {len(cells)} cells are finished already in {folder}")
    groups = {(cell.model, cell.task): cell.group for cell in cells}
    if missing:
        write_run(folder, config)
        _measure_all(missing, config, folder, groups, console)
    return Outcome(cells, folder, derive_tables(folder, groups))


def plan(config: Mapping[str, Any]) -> list[Cell]:
    """All cells of a configuration, checked, FullKV's first: the others are compared with it."""
    if not config.get("tasks") or not config.get("methods"):  # Hydra drops an empty list's key
        raise InputError("nothing to do: give at least one task and one method")
    limit = config["limit"]
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise InputError(f"limit must be a positive integer or null, got {limit!r}")
    model = config["model"]
    model_identity = {
        "checkpoint": fingerprint(locate(model["pretrained"])),
        "dtype": model["dtype"],
        "attention": "sparsemm",
    }
    task_identities = {name: {**tasks.identity(name), "limit": limit} for name in config["tasks"]}
    cells = expand(config, model_identity=model_identity, task_identities=task_identities)
    return sorted(cells, key=lambda cell: cell.method.evicts)


def _measure_all(
    cells: list[Cell],
    config: Mapping[str, Any],
    folder: Path,
    groups: Mapping[tuple[str, str], str],
    console: Console,
) -> None:
    """Run cells one after the other with one loaded model; each is on disk before the next begins."""
    with console.status("loading the model and lmms-eval"):
        chat = load_chat(config)
        tasks.include_path()
    documents = min(config["limit"] or tasks.DOCUMENTS, tasks.DOCUMENTS)
    with documents_progress(console) as progress:
        bar = progress.add_task("", total=documents * len(cells))
        chat.on_batch = lambda count: progress.advance(bar, count)
        for number, cell in enumerate(cells, start=1):
            progress.update(bar, description=cell_name(cell))
            start = time.perf_counter()
            row, samples = measure(chat, cell, config["limit"])
            write_cell(folder, cell.id, cell.group, row, samples)
            derive_tables(folder, groups)
            seconds = time.perf_counter() - start
            line = (
                f"{number}/{len(cells)} {cell_name(cell)}: {cell.metric} {row['score']:.3f} ({seconds:.1f} s)"
            )
            untouched = cell.method.evicts and row["n_uncompressed"] == row["n"]
            console.print(line + (": nothing was evicted, this is FullKV's result" if untouched else ""))


def load_chat(config: Mapping[str, Any]) -> SparseMMChat:
    """The model of a sweep, without a method yet."""
    from loguru import logger
    from transformers.utils import logging

    from sparsemm.evaluation.model import SparseMMChat

    logging.disable_progress_bar()
    logger.disable("sparsemm.evaluation.model")  # what it would say stands in the cell's line
    model = config["model"]
    return SparseMMChat(
        pretrained=model["pretrained"],
        dtype=model["dtype"],
        device=config["device"],
        batch_size=config["batch_size"],
        max_new_tokens=config["max_new_tokens"],
    )


def measure(chat: SparseMMChat, cell: Cell, limit: int | None) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Run one cell: its row of ``cells.csv`` and the columns of its samples."""
    from sparsemm.evaluation.scoring import score

    chat.method = cell.method
    scored = score(chat, cell.task, cell.metric, limit)
    samples = scored.samples
    n = len(samples["doc_id"])
    steps = sum(tokens - 1 for tokens in samples["output_tokens"])
    row = {
        **cell.columns(),
        "score": scored.value,
        **({"aggregation": scored.aggregation} if scored.aggregation else {}),
        "n": n,
        "realised_budget": sum(samples["realised_budget"]) / n,
        "n_uncompressed": sum(evicted == 0 for evicted in samples["evicted_tokens"]),
        "kv_bytes": round(sum(samples["kv_bytes"]) / n),
        "full_kv_bytes": round(sum(samples["full_kv_bytes"]) / n),
        "prefill_s": round(sum(samples["prefill_s"]) / n, 6),
        "decode_s_per_token": round(sum(samples["decode_s"]) / steps, 6) if steps else None,
        "device": device_name(chat.device),
        "dtype": str(chat.checkpoint.dtype).removeprefix("torch."),
        "schema_version": SCHEMA_VERSION,
    }
    samples["prompt_tokens"] = samples["input_tokens"]
    samples["new_tokens"] = samples["output_tokens"]
    return row, {name: samples[name] for name in STORED_SAMPLES if name in samples}


def device_name(device: Any) -> str:
    """``cpu``, or the accelerator's own name."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
