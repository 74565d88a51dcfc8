"""Prefill, decode and memory against FullKV and the byte floor: the benchmark's rows, and going on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from sparsemm.configs import InputError
from sparsemm.efficiency import Measured, Report
from sparsemm.efficiency.backbone import CHECKPOINT, Backbone, Subject, checkpoint_subject, shape_subject
from sparsemm.efficiency.clocks import release
from sparsemm.efficiency.contenders import Contender, contenders, methods_of
from sparsemm.efficiency.decode_bench import Plan, measure
from sparsemm.efficiency.decode_options import Options, check_memory, dtype_of
from sparsemm.efficiency.decode_table import (
    SCHEMA_VERSION,
    SHOWN,
    key_of,
    measured_row,
    now,
    path_of,
    read_record,
    read_table,
    record,
    write_record,
    write_table,
)
from sparsemm.efficiency.steps import Decoding
from sparsemm.models.checkpoint import check_settings
from sparsemm.models.loading import default_device, device_name, torch_device


@dataclass(frozen=True)
class Group:
    """What is measured together: a model at one prompt length and batch size, all contenders.

    Attributes
    ----------
    rows
        The contenders whose rows are wanted, with the columns that say what they are.
    rivals
        Those that run: FullKV's always, since a ratio holds within one run.
    """

    subject: Subject
    plan: Plan
    rows: list[tuple[Contender, dict[str, Any]]]
    rivals: list[Contender]


def run(config: Mapping[str, Any], report: Report) -> Measured:
    """Measure what ``decode.csv`` of ``config["output"]`` lacks; it is written after each group.

    Parameters
    ----------
    config
        ``eval_configs/efficiency.yaml`` with ``benchmark/decode.yaml``, resolved.
    report
        Called before every contender's turn.

    Raises
    ------
    InputError, ValueError
        Wrong options, found before anything runs.
    """
    options = Options(**{name: config[name] for name in Options.__dataclass_fields__})
    check_settings(config["model"], config["device"])
    device = torch_device(config["device"] or default_device())
    folder = Path(config["output"])
    table: list[Mapping[str, Any]] = [*read_table(folder)]
    runs, began = read_record(folder), now()
    logging.disable_progress_bar()
    groups = list(_groups(config, options, device))
    done = {key_of(row) for row in table}
    todo = [wanted for group in groups if (wanted := _missing(group, done))]
    if device.type == "cpu":
        for group in todo:
            check_memory(group.subject, options)
    total, turn = sum(options.rounds * len(group.rivals) for group in todo), 0
    backbone: Backbone | None = None
    for group in todo:
        name = f"{group.subject.name}, {group.plan.batch_size} x {group.plan.prompt_tokens}"
        if backbone is None or backbone.subject is not group.subject:
            report(turn, total, f"{name}: making the model")
            backbone = None
            release()
            backbone = _backbone(group.subject, device)

        def told(text: str, name: str = name) -> None:
            nonlocal turn
            report(turn, total, f"{name}, {text}")
            turn += 1

        table += measure_group(backbone, group, told)
        write_record(folder, {**runs, began: record(config)})
        write_table(folder, table)
    wanted = {key_of(row) for group in groups for _, row in group.rows}
    return Measured(path_of(folder), [dict(row) for row in table if key_of(row) in wanted], SHOWN)


def measure_group(backbone: Backbone, group: Group, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Run a group's contenders and give its rows; `report` is called before each of their turns."""
    measured = measure(backbone, group.plan, group.rivals, report)
    found = dict(zip(map(id, group.rivals), measured.samples, strict=True))
    return [
        row | measured_row(backbone, group.plan, found[id(rival)], measured, group.rivals)
        for rival, row in group.rows
    ]


def group_of(subject: Subject, plan: Plan, rivals: list[Contender], device: torch.device) -> Group:
    """All of some contenders at one prompt length and batch size."""
    return Group(
        subject, plan, [(rival, _identity(subject, plan, rival, device)) for rival in rivals], rivals
    )


def _groups(config: Mapping[str, Any], options: Options, device: torch.device) -> Iterator[Group]:
    usual: list[Decoding] = ["eager", "graph"] if device.type == "cuda" else ["eager"]
    decodings = usual if options.decoding is None else options.decoding
    for name in options.shapes:
        subject = _subject(name, config["model"], options, device)
        methods = methods_of(
            options.methods, options.budgets, subject.window, lambda subject=subject: subject.head_scores
        )
        for batch_size in options.batch_sizes:
            for length in options.lengths:
                if length <= subject.window:
                    raise InputError(f"lengths must be above the window ({subject.window}), got {length}")
                plan = Plan(
                    options.prompt,
                    length,
                    batch_size,
                    options.steps,
                    options.warm_up,
                    options.rounds,
                    options.backend,
                )
                yield group_of(subject, plan, contenders(methods, decodings), device)


def _subject(name: str, model: Mapping[str, Any], options: Options, device: torch.device) -> Subject:
    usual = model.get("dtype") if name == CHECKPOINT else None
    dtype = dtype_of(options.dtype, usual, device)
    if name == CHECKPOINT:
        return checkpoint_subject(model, dtype)
    return shape_subject(name, options.layers, options.positions, dtype)


def _identity(subject: Subject, plan: Plan, rival: Contender, device: torch.device) -> dict[str, Any]:
    scored = rival.method.name == "sparsemm"
    return {
        "shape": subject.name,
        "weights": subject.weights,
        "layers": subject.config.get_text_config(decoder=True).num_hidden_layers,
        "layers_of": subject.all_layers,
        "prompt": plan.prompt,
        "prompt_tokens": plan.prompt_tokens,
        "batch_size": plan.batch_size,
        "method": rival.method.name,
        "budget": rival.budget,
        "cache": rival.cache,
        "decoding": rival.decoding,
        "backend": (plan.backend or "default") if rival.cache == "ragged" else None,
        "head_scores": subject.scores_from if scored else None,
        "rounds": plan.rounds,
        "new_tokens": plan.steps * plan.rounds,
        "dtype": str(subject.dtype).removeprefix("torch."),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "schema_version": SCHEMA_VERSION,
    }


def _missing(group: Group, done: set[tuple[str, ...]]) -> Group | None:
    """What of a group has no row yet, beside FullKV, which the others are compared with; None: all has."""
    rows = [(rival, row) for rival, row in group.rows if key_of(row) not in done]
    if not rows:
        return None
    wanted = {id(rival) for rival, _ in rows}
    rivals = [rival for rival in group.rivals if id(rival) in wanted or not rival.method.evicts]
    return Group(group.subject, group.plan, rows, rivals)


def _backbone(subject: Subject, device: torch.device) -> Backbone:
    try:
        return Backbone(subject, device)
    except torch.OutOfMemoryError:
        raise InputError(
            f"the weights of {subject.name} do not fit on {device_name(device)}: reduce layers"
        ) from None
