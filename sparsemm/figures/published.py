"""SparseMM's published scores in the names and units of ``cells.csv``: the one place that translates them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pandas as pd

from sparsemm.configs import shipped

SOURCE = "arXiv 2506.05344"

MODELS: Mapping[str, str] = MappingProxyType(
    {
        "LLaVA-NeXT-Vicuna-7B": "llava_next_vicuna_7b",
        "LLaVA-NeXT-Mistral-7B": "llava_next_mistral_7b",
        "Qwen2-VL-7B-Instruct": "qwen2_vl_7b",
    }
)
"""The paper's models by their names in ``eval_configs/model``."""

METHODS: Mapping[str, str] = MappingProxyType(
    {
        "SparseMM": "sparsemm",
        "SnapKV": "snapkv",
        "PyramidKV": "pyramidkv",
        "AdaKV": "adakv",
        "Random": "random",
    }
)
"""The paper's methods by the names of their configurations."""


class Benchmark(NamedTuple):
    """A published benchmark as a task: its name, its metric, and what a published score is multiplied by."""

    task: str
    metric: str
    factor: float


BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "DocVQA": Benchmark("docvqa_val", "anls", 1.0),
        "OCRBench": Benchmark("ocrbench", "ocrbench_accuracy", 1.0),
        "TextVQA": Benchmark("textvqa_val", "exact_match", 1.0),
        "ChartQA": Benchmark("chartqa", "relaxed_overall", 1.0),
        "TextCaps": Benchmark("textcaps_val", "textcaps_CIDEr", 1.0),
        "MMBench": Benchmark("mmbench_en_dev_static", "gpt_eval_score", 1.0),  # per cent in both
        "GQA": Benchmark("gqa", "exact_match", 0.01),  # per cent there, 0 to 1 here
        "VQAv2": Benchmark("vqav2_val", "exact_match", 0.01),
    }
)
"""The paper's benchmarks by their tasks in ``eval_configs/task``."""

KEYS = ["model", "task", "metric", "method", "budget"]
"""What a published score and one of ours must agree in to be compared."""


def published_scores() -> pd.DataFrame:
    """The scores of tables 5 and 6 (``results/reference/paper.csv``) with the columns of ``cells.csv``.

    Returns
    -------
    pandas.DataFrame
        Columns ``model, task, metric, method, budget, score``, one row for each published score, in our
        names and units.
    """
    paper = pd.read_csv(shipped("results/reference") / "paper.csv")
    benchmarks = [BENCHMARKS[name] for name in paper["benchmark"]]
    return pd.DataFrame(
        {
            "model": paper["model"].map(dict(MODELS)),
            "task": [benchmark.task for benchmark in benchmarks],
            "metric": [benchmark.metric for benchmark in benchmarks],
            "method": paper["method"].map(dict(METHODS)),
            "budget": paper["budget"].astype(float),
            "score": paper["score"] * [benchmark.factor for benchmark in benchmarks],
        }
    )


def published_for(cells: pd.DataFrame) -> pd.DataFrame:
    """The published scores of the models, tasks (with their metrics) and methods that a table of cells has.

    Parameters
    ----------
    cells : pandas.DataFrame
        Rows of ``cells.csv``.
    """
    names = KEYS[:-1]
    return published_scores().merge(cells[names].drop_duplicates(), on=names)
