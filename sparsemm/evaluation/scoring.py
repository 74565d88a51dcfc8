"""A cell's score, by lmms-eval's own task code on the responses that are there."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NoReturn

from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.api.registry import get_aggregation, get_metric_aggregation
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager

from sparsemm.configs import InputError, nearest
from sparsemm.evaluation import aggregation
from sparsemm.evaluation.aggregation import cli_args, name_of
from sparsemm.evaluation.official import BENCHMARKS, build
from sparsemm.evaluation.requests import arguments, local_task, quiet
from sparsemm.evaluation.tasks import include_path

MEANS = ("lmms_eval.api.metrics:mean", "sparsemm.evaluation.task_files:share_found")
"""Aggregations that are the mean of the documents' own scores: no file needs to hold their inputs."""


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Let lmms-eval see one process: it would wait for the others, which do not score."""
    hidden = {
        name: os.environ.pop(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in os.environ
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


@dataclass(frozen=True)
class Scored:
    """What lmms-eval made of a task's documents.

    Attributes
    ----------
    value : float
        The score over all documents, as the task's aggregation gives it.
    aggregation : str or None
        Name of the task's own aggregation (``module:function``), empty if it has none that can be called
        again; None if the score is the mean of the documents' own.
    samples : dict of lists
        Columns of equal length in document order: ``doc_id``, ``response``, ``target``, ``score``, and, if
        there is an `aggregation`, ``aggregated``: each document's input to it.
    """

    value: float
    aggregation: str | None
    samples: dict[str, list[Any]]


class RecordedModel(lmms):
    """A model of lmms-eval that answers each document with a text that was given before."""

    is_simple = False

    def __init__(self, texts: Mapping[int, str]) -> None:
        super().__init__()
        self.texts = texts

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the recorded text of each request's document."""
        return [self.texts[arguments(request)[3]] for request in requests]

    def clean(self) -> None:
        """Keep the texts: lmms-eval would delete every attribute."""

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refuse: there are only texts."""
        raise InputError("a task that compares likelihoods cannot be scored from texts")

    generate_until_multi_round = loglikelihood


def score(
    texts: Mapping[int, str],
    task: str,
    metric: str,
    limit: int | None,
    options: Mapping[str, Any] | None = None,
) -> Scored:
    """Score texts by a task's own code.

    Parameters
    ----------
    texts : mapping
        The model's text for each document, by ``doc_id``.
    task : str
    metric : str
        The task's metric that counts.
    limit : int or None
        Use the first documents only.
    options : mapping, optional
        The task's file of ``eval_configs/task``; official tasks need it.

    Raises
    ------
    ValueError
        If lmms-eval ends without an error and without a result, or the task has no such metric.
    """
    java = task in BENCHMARKS and BENCHMARKS[task].java
    programs = aggregation.quiet() if java else contextlib.nullcontext()
    with quiet(task), programs, _alone(), tempfile.TemporaryDirectory() as folder:
        manager = TaskManager(
            "ERROR", include_path=str(include_path()), include_defaults=False, model_name="sparsemm"
        )
        # A new task object each time, since some tasks accumulate over calls.
        chosen = {**(options or {}), "metric": metric}
        loaded: Any = build(task, chosen) if task in BENCHMARKS else local_task(task, include_path())
        loaded.doc_to_text = lambda *_, **__: ""  # nothing is asked: a question that is no text is no error
        results = simple_evaluate(
            RecordedModel(texts),
            tasks=[loaded],
            task_manager=manager,
            limit=limit,
            bootstrap_iters=0,
            log_samples=True,
            process_docs_parallel=1,
            cli_args=cli_args(folder),
        )
    return read_results(results, task, metric)


def rehearse(documents: Iterable[int], task: str, limit: int | None, options: Mapping[str, Any]) -> None:
    """Score empty answers of an official task: what its code cannot score is found before a model is loaded.

    For example an answer that is missing, or a limit that cuts one of MME's pairs, or holds none of its
    documents of perception.

    Raises
    ------
    InputError
        As `score`.
    """
    if task in BENCHMARKS:
        score(dict.fromkeys(documents, ""), task, options["metric"], limit, options)


def read_results(results: Mapping[str, Any] | None, task: str, metric: str) -> Scored:
    """The score and the samples of one task in what lmms-eval returned (None where it failed quietly)."""
    logged = sorted((results or {}).get("samples", {}).get(task, ()), key=lambda sample: sample["doc_id"])
    if not results or task not in results.get("results", {}) or not logged:
        raise ValueError(f"lmms-eval gave no result for {task}")
    values = results["results"][task]
    given = {key.split(",")[0]: value for key, value in values.items() if "," in key}  # metric,filter
    if not isinstance(given.get(metric), Real):
        if task in BENCHMARKS:  # the task has it, as its settings were read; MME's documents are of two kinds
            raise InputError(f"none of the {len(logged)} documents of {task} counts for the metric {metric}")
        known = sorted(name for name in given if "_stderr" not in name)
        raise InputError(f"the task {task} has no metric {metric!r}; {nearest(metric, known)}")
    samples: dict[str, list[Any]] = {
        "doc_id": [sample["doc_id"] for sample in logged],
        "response": [sample["resps"][0][0] for sample in logged],  # as given: a filter may shorten it
        "target": [json.dumps(sample["target"], ensure_ascii=False) for sample in logged],
        "score": [_number(sample.get(metric)) for sample in logged],
    }
    named = _aggregation(results["configs"][task]["metric_list"], metric)
    benchmark = BENCHMARKS.get(task)
    if benchmark is not None and metric in benchmark.per_document:
        samples["score"] = benchmark.per_document[metric]([sample[metric] for sample in logged])
        named = ""
    if named and (benchmark is None or benchmark.resampled):
        try:  # None: a document without this metric, such as MME's of cognition
            samples["aggregated"] = [_json_value(sample.get(metric)) for sample in logged]
        except (TypeError, ValueError, AttributeError):  # nothing that a file can hold: no intervals
            named = ""
    return Scored(float(given[metric]), named, samples)


def _aggregation(metrics: Sequence[Mapping[str, Any]], metric: str) -> str | None:
    """Name of the aggregation of a task's metric; None for a mean, empty for one that has no name."""
    chosen = next((entry.get("aggregation") for entry in metrics if entry["metric"] == metric), None)
    if chosen is None:
        chosen = get_metric_aggregation(metric)
    elif isinstance(chosen, str):
        chosen = get_aggregation(chosen)
    name = name_of(chosen) if chosen is not None else None
    return None if name in MEANS else name or ""


def _json_value(value: Any) -> Any:
    """A document's input to an aggregation as JSON holds it; numpy's numbers and arrays become Python's."""
    text = json.dumps(value, allow_nan=False, default=lambda held: held.tolist())
    return json.loads(text)


def _number(value: Any) -> float | None:
    """A sample's own score where it has one: a number, or ocrbench's record with a score in it."""
    if isinstance(value, dict):
        value = value.get("score")
    return float(value) if isinstance(value, (int, float)) else None
