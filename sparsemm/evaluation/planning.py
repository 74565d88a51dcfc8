"""What a sweep is going to do: its cells, and what each group of them takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils.modeling import convert_file_size_to_int
from rich.console import Console
from rich.filesize import decimal

from sparsemm.cache import model_shape
from sparsemm.cache.head_mask import HeadMask
from sparsemm.configs import InputError, nearest, output_folder
from sparsemm.evaluation import tasks
from sparsemm.evaluation.ablations import fractions
from sparsemm.evaluation.cells import Cell, expand
from sparsemm.evaluation.estimate import rate_of
from sparsemm.evaluation.memory import SHARE, Step, document_bytes, free_memory, row_bytes, steps_that_fit
from sparsemm.evaluation.missing import require
from sparsemm.evaluation.official import BENCHMARKS
from sparsemm.evaluation.processes import device_of
from sparsemm.evaluation.tables import CELL_COLUMNS, QUESTION_AFTER
from sparsemm.methods.base import MOST
from sparsemm.methods.head_scored import HeadScored
from sparsemm.models.checkpoint import check_settings, fingerprint, locate
from sparsemm.models.loading import (
    ANSWERING,
    Checkpoint,
    check_weights,
    read_config,
    trusts,
    without_weights,
)
from sparsemm.models.prompts import prepare, question_tokens

if TYPE_CHECKING:
    from sparsemm.evaluation.requests import Document


OPTION_OF = {"model": "model.name", "metric": "tasks.{task}.metric", "window": "model.window"}
"""Options whose columns have other names; the parameters of a method are named as they are."""


def check_options(config: Mapping[str, Any]) -> None:
    """Look whether a sweep's own options can be meant.

    Raises
    ------
    InputError
        The first that cannot.
    """
    if not config.get("tasks") or not config.get("methods"):  # Hydra drops an empty list's key
        raise InputError("nothing to do: give at least one task and one method")
    for name, needed in (
        ("limit", False),
        ("batch_size", True),
        ("max_rows", False),
        ("max_new_tokens", False),
    ):
        value = config[name]
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not whole and (needed or value is not None):
            raise InputError(
                f"{name} must be a positive integer{'' if needed else ' or null'}, got {value!r}"
            )
        if value is not None and value > MOST:
            raise InputError(f"{name} must be at most {MOST}, got {value}")
    output_folder(config["output"])
    check_settings(config["model"], config["device"])
    memory_limit(config)
    fractions(config)
    if not isinstance(config["output"], str) or not config["output"]:
        raise InputError(f"output must name a folder, got {config['output']!r}")
    if not isinstance(config["plan"], bool):
        raise InputError(f"plan must be true or false, got {config['plan']!r}")
    rate_of(config)


def plan(config: Mapping[str, Any]) -> list[Cell]:
    """All cells of a configuration, checked, FullKV's first: the others are compared with it.

    Raises
    ------
    InputError, ValueError
        Wrong options, or something that is missing, found before anything runs.
    """
    check_options(config)
    require(config)
    model = config["model"]
    checkpoint = locate(model["pretrained"])
    check_weights(checkpoint)
    model_identity = {
        "checkpoint": fingerprint(checkpoint),
        "dtype": model["dtype"],
        "attention": "sparsemm",
        **{name: model[name] for name in ANSWERING if model.get(name)},
    }
    task_identities = {name: tasks.identity(name, given) for name, given in config["tasks"].items()}
    cells = expand(config, model_identity=model_identity, task_identities=task_identities)
    _check_rows(cells)
    _check_shapes(cells, checkpoint, trusts(model))
    return sorted(cells, key=lambda cell: cell.method.evicts)


def _check_rows(cells: Sequence[Cell]) -> None:
    """Refuse what could not stand in a cell's row: that is found before anything is computed.

    Raises
    ------
    InputError
        One line that names the option.
    """
    for cell in cells:
        for name, value in cell.columns().items():
            column = CELL_COLUMNS[name]
            if column.holds(value) and (name not in ("model", "metric") or value):
                continue
            option = OPTION_OF.get(name, name).format(task=cell.task, method=cell.method_name)
            quoted = isinstance(value, int | float) and column.type == "text"
            advice = f"; quotes make it one: {option}='\"{value}\"'" if quoted else ""
            kind = {"text": "a text", "integer": "a whole number of 64 bits"}.get(column.type, "a number")
            raise InputError(f"{option} must be {kind}, got {value!r}{advice}")
        if cell.task not in BENCHMARKS and cell.metric not in (known := tasks.metrics(cell.task)):
            raise InputError(
                f"the task {cell.task} has no metric {cell.metric!r}; {nearest(cell.metric, known)}"
            )


def _check_shapes(cells: Sequence[Cell], checkpoint: Path, trust: bool) -> None:
    """Refuse head scores that have not the model's shape: methods see that only with the first prompt."""
    scored = [cell for cell in cells if isinstance(cell.method, HeadScored) or cell.ablation]
    if not scored:
        return
    shape = model_shape(read_config(checkpoint, trust).get_text_config(decoder=True))
    for cell in scored:
        try:
            if isinstance(cell.method, HeadScored):
                cell.method.kv_head_scores(shape)
            if cell.ablation:
                HeadMask.checked(cell.prefill.masked, cell.prefill.mode, shape)
        except ValueError as error:
            raise InputError(f"the head scores {cell.head_scores} cannot be used: {error}") from None


def by_run(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The groups of cells that are decoded from one prefill: all but the method is the same."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.run, []).append(cell)
    return list(groups.values())


def memory_limit(config: Mapping[str, Any]) -> int | None:
    """Bytes of the option ``memory_limit``; None if it is not given.

    Raises
    ------
    InputError
        If it is no size.
    """
    value = config["memory_limit"]
    if value is None:
        return None
    try:
        size = convert_file_size_to_int(value)
    except (ValueError, AttributeError):
        size = 0
    if isinstance(value, bool) or size < 1:
        raise InputError(
            f"memory_limit must be a size such as 8GB, 500MiB or a number of bytes, got {value!r}"
        )
    return size


def print_plan(
    cells: Sequence[Cell], missing: Sequence[Cell], config: Mapping[str, Any], console: Console
) -> None:
    """Print what a sweep would do, task by task; no model is loaded and nothing is written.

    Parameters
    ----------
    cells, missing
        All cells, and those that are not finished.
    config
        The resolved configuration.
    """
    from sparsemm.evaluation.requests import in_batches, load_documents
    from sparsemm.evaluation.store import answered

    checkpoint = without_weights(config["model"], device_of(config["device"]))
    if trusts(config["model"]):
        console.print("code that comes with the checkpoint is run (model.trust_remote_code=true)")
    text, itemsize = checkpoint.model.config.get_text_config(decoder=True), checkpoint.dtype.itemsize
    for task in dict.fromkeys(cell.task for cell in cells):
        runs = by_run([cell for cell in cells if cell.task == task])
        documents = load_documents(task, config["limit"], config["max_new_tokens"], config["tasks"][task])
        batches = in_batches(documents, config["batch_size"])
        prompts = read = most = 0
        for run in runs:
            open_cells = [cell for cell in missing if cell.run == run[0].run]
            held = [answered(Path(config["output"]), cell.run, cell.key, task) for cell in open_cells]
            asked = {one.doc_id for one in documents if any(one.doc_id not in ids for ids in held)}
            prompts += len(asked)
            read += sum(any(one.doc_id in asked for one in batch) for batch in batches)
            most = max(most, len(open_cells))
        count = sum(map(len, runs))
        done = count - sum(cell.task == task for cell in missing)
        finished = f", {done} of them finished" if done else ""
        times = f", each read {len(runs)} times" if len(runs) > 1 else ""
        console.print(f"{task}: {count} cells{finished}, {len(documents)} documents{times}")
        if prompts:
            inputs = prepare(checkpoint, [documents[0].conversation()])
            length = inputs["input_ids"].shape[1]
            behind = any(run[0].prompt == QUESTION_AFTER for run in runs)
            question = question_tokens(checkpoint, inputs)[0] if behind else 0
            new, together = documents[0].settings.max_new_tokens, min(config["batch_size"], len(documents))
            rows = together * most
            step = steps_in_memory(config, checkpoint, documents)(Step(together, rows), length, question)
            shape = model_shape(text)
            size = step.documents * document_bytes(shape, length, itemsize)
            size += step.rows * row_bytes(shape, length, question + new, itemsize, text.vocab_size)
            console.print(
                f"  {prompts} prompts to read in {read} batches; up to {rows} rows a batch, "
                f"{step.rows} at a time, in at most {decimal(size)} beside the weights"
            )
    console.print(f"results would be in {config['output']}; nothing was run (plan=true)")


def steps_in_memory(
    config: Mapping[str, Any], checkpoint: Checkpoint, documents: Sequence[Document]
) -> Callable[[Step, int, int], Step]:
    """How much of a step is taken at a time, given the tokens of prompts and of questions after compression.

    Options and free memory decide.

    Parameters
    ----------
    config
        The sweep's: ``memory_limit``, ``max_rows``.
    checkpoint
        Only its config, device and dtype count.
    documents
        Of the task.
    """
    limit = memory_limit(config)
    return steps_that_fit(
        int(SHARE * free_memory(checkpoint.device)) if limit is None else limit,
        checkpoint.model.config.get_text_config(decoder=True),
        checkpoint.dtype,
        max_new_tokens=max(document.settings.max_new_tokens for document in documents),
        max_rows=config["max_rows"],
    )
