"""The official benchmarks: lmms-eval's own task code and settings, on the hub's data or on local files.

Three things are changed, and nothing else: where the data come from, that only the metric that counts is
computed (no files for submission, no other metrics of captions), and how ocrbench's samples become a score.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparsemm.configs import InputError, nearest
from sparsemm.evaluation import official_data
from sparsemm.evaluation.captions import cider
from sparsemm.evaluation.task_files import share_found

Options = Mapping[str, Any]
"""A file of ``eval_configs/task/``: ``metric``, and for official tasks ``data_files`` and ``revision``."""


@dataclass(frozen=True)
class Benchmark:
    """What is known of an official task beside its YAML.

    Attributes
    ----------
    yaml : str
        Its file in lmms-eval's ``tasks``.
    columns : tuple of str
        What its code reads of a document.
    documents : int
        How many the published split has.
    java : bool
        Whether scoring starts Java (pycocoevalcap's tokenizer).
    login : bool
        Whether its code asks the hub with a login, though the data are public.
    aggregation : callable, optional
        In the place of the task's own.
    resampled : bool
        Whether intervals may come from calls of the task's aggregation on documents that are drawn again.
    per_document : mapping
        By metric, what makes scores of their own, whose mean is the score, from the documents' inputs to the
        task's aggregation.
    """

    yaml: str
    columns: tuple[str, ...]
    documents: int
    java: bool = False
    login: bool = False
    aggregation: Callable[..., float] | None = None
    resampled: bool = True
    per_document: Mapping[str, Callable[[list[Any]], list[float]]] = field(default_factory=dict)


BENCHMARKS: Mapping[str, Benchmark] = {
    "docvqa_val": Benchmark("docvqa/docvqa_val.yaml", ("image", "question", "answers"), 5349),
    # The task's own sum is divided by 1000 whatever the number of documents, and counts on in its module.
    "ocrbench": Benchmark(
        "ocrbench/ocrbench.yaml",
        ("image", "question", "answer", "dataset", "question_type"),
        1000,
        aggregation=share_found,
    ),
    "textvqa_val": Benchmark(
        "textvqa/textvqa_val.yaml", ("image", "question", "question_id", "answers"), 5000
    ),
    "chartqa": Benchmark("chartqa/chartqa.yaml", ("image", "question", "answer", "type"), 2500),
    "textcaps_val": Benchmark(
        "textcaps/textcaps_val.yaml",
        ("image", "image_id", "caption_str"),
        3166,
        java=True,
        resampled=False,  # each call of its functions starts three Java programs
        per_document={"textcaps_CIDEr": cider},
    ),
    "mmbench_en_dev_static": Benchmark(
        "mmbench/mmbench_en_dev_static.yaml",
        (
            "image",
            "index",
            "question",
            "hint",
            "answer",
            *"ABCD",
            "category",
            "L2-category",
            "source",
            "split",
        ),
        4329,
        resampled=False,  # the index says which rotations are of one question: no copy may get another one
    ),
    # Its process_docs joins a second dataset of images; local files hold the image in the document.
    "gqa": Benchmark("gqa/gqa.yaml", ("image", "question", "answer"), 12_578, login=True),
    "vqav2_val": Benchmark("vqav2/vqav2_val.yaml", ("image", "question", "question_id", "answers"), 214_354),
    "mme": Benchmark("mme/mme.yaml", ("image", "question_id", "question", "answer", "category"), 2374),
    "ai2d": Benchmark("ai2d/ai2d.yaml", ("image", "question", "options", "answer"), 3088),
}


def build(task: str, options: Options) -> Any:
    """A new task object of lmms-eval: some tasks accumulate, none is used for two scores."""
    from lmms_eval.api.task import ConfigurableMessagesTask

    return ConfigurableMessagesTask(config=settings(task, options), model_name="sparsemm")


def settings(task: str, options: Options) -> dict[str, Any]:
    """The official YAML, resolved, with our changes.

    Raises
    ------
    InputError
        If the task has no such metric, or the local files are not usable.
    """
    benchmark, found = BENCHMARKS[task], _official(task)
    metric = options["metric"]
    known = {entry["metric"]: dict(entry) for entry in found["metric_list"]}
    if metric not in known:
        raise InputError(f"the task {task} has no metric {metric!r}; {nearest(metric, known)}")
    if benchmark.aggregation is not None:
        known[metric]["aggregation"] = benchmark.aggregation
    found["metric_list"] = [known[metric]]
    if found.get("process_results") is not None:
        found["process_results"] = _only(metric, found["process_results"])
    if options.get("data_files"):
        split = found["test_split"]
        files = local_files(task, options, split)
        found |= {"dataset_path": "parquet", "dataset_name": None, "process_docs": None}
        found["dataset_kwargs"] = {
            "data_files": {split: [str(file) for file in files]},
            "features": official_data.features(files[0]),
        }
    else:  # without the official `token: true`, which wants a login for public data too
        found["dataset_kwargs"] = {"revision": options["revision"]} if options.get("revision") else {}
    return found


def identity(task: str, options: Options) -> dict[str, Any]:
    """What an official task's documents, questions and scores depend on; independent of the data's place."""
    config = settings(task, options)
    del config["dataset_kwargs"]
    data: Any = {name: config.pop(name, None) for name in ("dataset_path", "dataset_name")}
    data["revision"] = options.get("revision")
    if options.get("data_files"):
        data = official_data.digest(local_files(task, options, config["test_split"]))
    named = json.dumps(config, sort_keys=True, default=lambda held: f"{held.__module__}.{held.__qualname__}")
    return {"task": json.loads(named), "documents": data, "lmms_eval": version("lmms_eval")}


def source(task: str) -> tuple[str, str | None]:
    """Path and configuration of a task's dataset on the hub."""
    found = _official(task)
    return found["dataset_path"], found.get("dataset_name")


def local_files(task: str, options: Options, split: str | None = None) -> list[Path]:
    """The checked files of ``data_files``.

    Raises
    ------
    InputError
        If there are none, or one of them is not usable.
    """
    files = official_data.locate(task, options["data_files"], split or _official(task)["test_split"])
    for file in files:
        official_data.check(task, file, BENCHMARKS[task].columns)
    return files


def _official(task: str) -> dict[str, Any]:
    from lmms_eval.utils import load_yaml_config

    package = importlib.util.find_spec("lmms_eval")
    if package is None or package.origin is None:
        raise InputError("lmms-eval is not installed")
    found = load_yaml_config(str(Path(package.origin).parent / "tasks" / BENCHMARKS[task].yaml))
    found.pop("group", None)  # an old form of `tag`, about which lmms-eval warns
    return found


def _only(metric: str, process: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A task's ``process_results`` that gives one metric; a document may have none (chartqa's splits)."""

    @functools.wraps(process)
    def one(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
        return {name: value for name, value in process(doc, results).items() if name == metric}

    return one
