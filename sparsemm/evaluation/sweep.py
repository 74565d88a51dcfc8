"""The sweep: a grid of cells from one prefill a document, every response durable, finished cells skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sparsemm.configs import InputError
from sparsemm.evaluation.cells import Cell
from sparsemm.evaluation.estimate import print_estimate
from sparsemm.evaluation.missing import print_missing, what_is_missing
from sparsemm.evaluation.one_model import check_one_model
from sparsemm.evaluation.planning import by_run, check_options, plan, print_plan, steps_in_memory
from sparsemm.evaluation.processes import Processes, device_of, processes
from sparsemm.evaluation.results import (
    check_folder,
    derive_union,
    has_run,
    is_finished,
    set_broken_aside,
    write_cell,
    write_run,
)
from sparsemm.evaluation.store import PlannedCell, ResponseStore
from sparsemm.evaluation.terminal import cell_name, responses_progress
from sparsemm.recording import clear_leftovers

if TYPE_CHECKING:
    import pandas as pd

    from sparsemm.evaluation.requests import Document
    from sparsemm.models.loading import Checkpoint


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a sweep gave.

    Attributes
    ----------
    cells : list of Cell
    folder : Path
        The results folder.
    table : DataFrame
        Its ``cells.csv``; empty for a plan, and for all but the first of several processes.
    failed : dict
        Documents that could not be answered: (task, doc_id) -> reason.
    error : str or None
        Why a job of a multirun has no cells: its name and the reason.
    """

    cells: list[Cell]
    folder: Path
    table: pd.DataFrame
    failed: dict[tuple[str, int], str] = field(default_factory=dict)
    error: str | None = None


def run(
    config: Mapping[str, Any],
    *,
    job: str | None = None,
    groups: Mapping[tuple[str, str], str] | None = None,
) -> Outcome:
    """Measure all cells of a configuration that are not finished yet.

    The responses that are missing are computed, batch by batch, for all cells at once; then every cell is
    scored from its responses. Several processes (``torchrun``) share the batches, and the first one scores.

    Parameters
    ----------
    config : mapping
        ``eval_configs/sweep.yaml``, resolved.
    job : str, optional
        Name of the multirun's job that this is: other jobs may write to the folder from other machines.
    groups : mapping, optional
        What the tables are to show of other jobs' cells: (model, task) -> group.

    Returns
    -------
    Outcome
        Its folder holds ``cells/<id>.json``, ``cells.csv``, ``samples.parquet`` and ``run.json``.

    Raises
    ------
    InputError, ValueError
        Wrong options, found before anything runs; or cells under which no document could be answered, which
        are not written: their score would be that of empty texts.
    """
    import pandas as pd

    check_options(config)
    if config["plan"] and (lacking := what_is_missing(config)):
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        print_missing(config, lacking, console)
        print_estimate([config], console)
        return Outcome([], Path(config["output"]), pd.DataFrame())
    cells = plan(config)
    folder = Path(config["output"])
    check_one_model(folder, cells)
    if not config["plan"]:
        check_folder(folder)
    missing = [cell for cell in cells if not is_finished(folder, cell.id)]
    groups = {**(groups or {}), **groups_of(cells)}
    nothing = Outcome([], folder, pd.DataFrame())
    with ExitStack() as stack:
        together = stack.enter_context(processes())
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True, quiet=together.rank > 0)
        if config["plan"]:
            print_plan(cells, missing, config, console)
            print_estimate([config], console)
            return nothing
        if done := len(cells) - len(missing):
            console.print(f"{done} of {len(cells)} cells are finished already in {folder}")
        together.wait()  # nobody writes before all have seen what is missing
        if together.rank == 0:
            for here in (folder, folder / "cells"):
                clear_leftovers(here)
            for notice in set_broken_aside(folder):
                console.print(notice, markup=False)
        if not missing:
            if together.rank > 0:
                return nothing
            if job is None and not has_run(folder):
                write_run(folder, config)
            return Outcome(cells, folder, derive_union(folder, groups))
        with console.status("loading the model and lmms-eval"):
            checkpoint, documents = _load(missing, config)
        if together.rank == 0 and job is None:
            write_run(folder, config)
        planned = [_planned(cell, len(documents[cell.task])) for cell in missing]
        with (
            ResponseStore.open(folder, planned, job=together.job)
            if job is None
            else ResponseStore.open_alone(folder, planned, job)
        ) as store:
            _answer(missing, documents, store, checkpoint, config, together, console)
            if together.rank > 0:
                store.close()  # on a network file system, the first process sees what is closed
            together.wait()
            stack.close()  # lmms-eval would wait for the other processes too
            if together.rank > 0:
                return nothing
            failed, unanswered = _score(missing, documents, store, config, checkpoint, folder, console)
    finished = len(missing) > len(unanswered) or len(cells) > len(missing)
    table = derive_union(folder, groups) if finished else pd.DataFrame()
    if unanswered:
        reasons = "; ".join(f"{task}: {reason}" for task, reason in dict(unanswered).items())
        raise InputError(
            f"no document could be answered under {len(unanswered)} of {len(cells)} cells, which have no "
            f"score ({reasons}); the same command tries again"
        )
    return Outcome(cells, folder, table, failed)


def groups_of(cells: Sequence[Cell]) -> dict[tuple[str, str], str]:
    """Of each (model, task) the group of cells that are compared."""
    return {(cell.model, cell.task): cell.group for cell in cells}


def _load(cells: Sequence[Cell], config: Mapping[str, Any]) -> tuple[Checkpoint, dict[str, list[Document]]]:
    """The model, and each task's documents: these first, since their faults are found in seconds."""
    from transformers.utils import logging

    from sparsemm.evaluation.requests import load_documents
    from sparsemm.evaluation.scoring import rehearse
    from sparsemm.models.loading import check, load

    place = device_of(config["device"])
    check(config["model"], place)
    logging.disable_progress_bar()
    limit, given = config["limit"], config["tasks"]
    names = dict.fromkeys(cell.task for cell in cells)
    documents = {name: load_documents(name, limit, config["max_new_tokens"], given[name]) for name in names}
    for name, posed in documents.items():
        rehearse([document.doc_id for document in posed], name, limit, given[name])
    return load(config["model"], place), documents


def _planned(cell: Cell, documents: int) -> PlannedCell:
    budget = cell.method.budget if cell.method.evicts else None
    return PlannedCell(cell.run, cell.key, cell.task, cell.model, cell.variant, budget, cell.id, documents)


def _answer(
    cells: Sequence[Cell],
    documents: Mapping[str, Sequence[Document]],
    store: ResponseStore,
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    together: Processes,
    console: Console,
) -> None:
    """Compute and store this process's part of the responses that are missing."""
    from sparsemm.evaluation.killed import StepFile, take_killed
    from sparsemm.evaluation.memory import Limits, Step
    from sparsemm.evaluation.requests import in_batches
    from sparsemm.evaluation.respond import respond

    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:
            console.print(line)
        said.add(line)

    batches = {
        task: together.share(in_batches(posed, config["batch_size"])) for task, posed in documents.items()
    }
    wanted = sum(
        len(store.missing(cell.run, cell.key, cell.task, [one.doc_id for one in batch]))
        for cell in cells
        for batch in batches[cell.task]
    )
    killed = [Step(*held) for held in take_killed(store.path.parent)]
    with responses_progress(console) as progress, StepFile(store.path) as step_file:
        bar = progress.add_task("", total=wanted)
        for group in by_run(cells):
            task = group[0].task
            progress.update(bar, description=f"{task}: {len(group)} cells at once")
            limits = Limits(
                fit=steps_in_memory(config, checkpoint, documents[task]), step_file=step_file, say=say
            )
            for step in killed:
                limits.shrink(
                    step,
                    f"an earlier run was killed in a step of {step.documents} documents, {step.rows} rows",
                )
            respond(
                checkpoint,
                group,
                batches[task],
                store,
                limits=limits,
                advance=lambda count: progress.advance(bar, count),
            )
            for notice in store.notices:
                say(notice)


def _score(
    cells: Sequence[Cell],
    documents: Mapping[str, Sequence[Document]],
    store: ResponseStore,
    config: Mapping[str, Any],
    checkpoint: Checkpoint,
    folder: Path,
    console: Console,
) -> tuple[dict[tuple[str, int], str], list[tuple[str, str]]]:
    """Score cells from their responses; each is on disk before the next begins.

    Return what failed; and, for each cell of which all did, which is not scored, its task and a reason.
    """
    from sparsemm.evaluation.measure import measure

    failed: dict[tuple[str, int], str] = {}
    unanswered: list[tuple[str, str]] = []
    for number, cell in enumerate(cells, start=1):
        responses = store.responses(cell.run, cell.key, cell.task)
        errors = [responses[document.doc_id].error for document in documents[cell.task]]
        if all(errors):
            unanswered.append((cell.task, str(errors[0])))
            console.print(f"{number}/{len(cells)} {cell_name(cell)}: no document could be answered")
            continue
        options = config["tasks"][cell.task]
        row, samples, allocation = measure(cell, responses, config["limit"], checkpoint, options)
        write_cell(folder, cell.id, cell.group, row, samples, allocation, cell.model_id)
        untouched = cell.method.evicts and row["n_uncompressed"] == row["n"]
        console.print(
            f"{number}/{len(cells)} {cell_name(cell)}: {cell.metric} {row['score']:.3f}"
            + (": nothing was evicted, this is FullKV's result" if untouched else "")
        )
        for doc_id, error in zip(samples["doc_id"], samples["error"], strict=True):
            if error is not None:
                failed[cell.task, doc_id] = error
    return failed, unanswered
