"""A cell's score, by lmms-eval's own task code on the registered model."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from sparsemm.evaluation.model import SparseMMChat
from sparsemm.evaluation.tasks import include_path


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back lmms-eval's progress bars; show them after all if it fails."""
    held = io.StringIO()
    try:
        with contextlib.redirect_stderr(held), contextlib.redirect_stdout(held):
            yield
    except BaseException:
        sys.stderr.write(held.getvalue())
        raise


def score(
    model: SparseMMChat, task: str, metric: str, limit: int | None
) -> tuple[float, dict[str, list[Any]]]:
    """Run a task on a model and score it.

    Parameters
    ----------
    model : SparseMMChat
        With the cell's method set.
    task : str
        Name of a local task.
    metric : str
        The task's metric that counts.
    limit : int or None
        Use the first documents only.

    Returns
    -------
    score : float
        As the task's aggregation gives it.
    samples : dict of lists
        Columns of equal length in document order: ``doc_id``, ``response``, ``target``, ``score``, and what
        is in `sparsemm.evaluation.generation.RequestFigures`.
    """
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        manager = TaskManager(
            "ERROR", include_path=str(include_path()), include_defaults=False, model_name="sparsemm"
        )
        results = simple_evaluate(
            model,
            tasks=[task],  # by name: a new task object each time, since some tasks accumulate over calls
            task_manager=manager,
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            process_docs_parallel=1,
            cli_args=Namespace(output_path=folder, process_with_media=False, reasoning_tags=None),
        )
    if not results or task not in results.get("results", {}):
        raise RuntimeError(f"lmms-eval gave no result for {task}")
    value = results["results"][task][f"{metric},none"]
    logged = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    samples: dict[str, list[Any]] = {
        "doc_id": [sample["doc_id"] for sample in logged],
        "response": [sample["filtered_resps"][0] for sample in logged],
        "target": [json.dumps(sample["target"], ensure_ascii=False) for sample in logged],
        "score": [_number(sample[metric]) for sample in logged],
    }
    for name in logged[0]["token_counts"][0]:
        samples[name] = [sample["token_counts"][0][name] for sample in logged]
    return float(value), samples


def _number(value: Any) -> float | None:
    """A sample's own score where it has one: a number, or ocrbench's record with a score in it."""
    if isinstance(value, dict):
        value = value.get("score")
    return float(value) if isinstance(value, (int, float)) else None
