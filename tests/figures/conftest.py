import hashlib
import json

import numpy as np
import pandas as pd
import pytest

from sparsemm.efficiency.decode_table import COLUMNS
from sparsemm.evaluation.tables import CELL_COLUMNS

METHODS = {"snapkv": 0.55, "pyramidkv": 0.3, "adakv": 0.6, "sparsemm": 0.8, "random": 0.4}
BUDGETS = (12, 16, 24, 32, 48, 96, 128)


@pytest.fixture
def cells() -> pd.DataFrame:
    """Made-up cells: two tasks, FullKV and five methods over seven budgets."""
    rows = []
    for task, metric, best in (("tiny_docvqa", "anls", 0.9), ("tiny_ocr", "ocrbench_accuracy", 0.75)):
        common = {"model": "tiny", "task": task, "metric": metric, "n": 200, "ablation": np.nan}
        rows.append(common | {"method": "fullkv", "budget": np.nan, "score": best, "method_params": "{}"})
        for method, pace in METHODS.items():
            for budget in BUDGETS:
                score = best * min(1.0, (budget / 128) ** (1 - pace))
                params = '{"kernel": 5, "seed": 0}'
                rows.append(
                    common | {"method": method, "budget": budget, "score": score, "method_params": params}
                )
    return pd.DataFrame(rows)


@pytest.fixture
def measured(cells: pd.DataFrame) -> pd.DataFrame:
    """The same with what was counted: AdaKV keeps a little more than its budgets."""
    budget = cells["budget"].fillna(200)
    realised = budget.where(cells["method"] != "adakv", 1.25 * budget)
    return cells.assign(
        prompt="image_question",
        dtype="float32",
        realised_budget=realised,
        n_uncompressed=0,
        kv_bytes=6144 * (realised + 10),
        ci_low=cells["score"] - 0.03,
        ci_high=cells["score"] + 0.03,
    )


TASKS = {
    "docvqa_val": ("anls", 0.9),
    "ocrbench": ("ocrbench_accuracy", 0.8),
    "textvqa_val": ("exact_match", 0.8),
    "chartqa": ("relaxed_overall", 0.8),
    "textcaps_val": ("textcaps_CIDEr", 1.4),
}


@pytest.fixture
def official() -> pd.DataFrame:
    """Made-up cells with the names of the paper's models and of official tasks."""
    rows = []
    for model in ("llava_next_vicuna_7b", "llava_next_mistral_7b", "qwen2_vl_7b"):
        for task, (metric, best) in TASKS.items():
            common = {"model": model, "task": task, "metric": metric, "n": 1000, "prompt": "image_question"}
            rows.append(common | {"method": "fullkv", "budget": np.nan, "score": best})
            for method, pace in METHODS.items():
                for budget in (64, 128, 256):
                    score = best * (budget / 512) ** (0.4 - 0.4 * pace)
                    rows.append(common | {"method": method, "budget": budget, "score": score})
    return pd.DataFrame(rows)


@pytest.fixture
def allocations() -> pd.DataFrame:
    """Made-up allocations [4 layers, 2 KV heads] of three methods on two tasks at one budget."""
    rows = []
    for task, n in (("tiny_docvqa", 100), ("tiny_ocr", 300)):
        for method, seed, slope in (
            ("snapkv", None, 0),
            ("sparsemm", None, 8),
            ("random", 0, 4),
            ("random", 1, 8),
        ):
            for layer in range(4):
                for kv_head in range(2):
                    nominal = 32 + slope * (2 * layer + kv_head - 3.5)
                    kept = min(nominal, 50) if task == "tiny_ocr" else nominal
                    rows.append(
                        {"cell": f"{method}{seed}", "model": "tiny", "task": task, "method": method}
                        | {"budget": 32.0, "prompt": "image_question", "ablation": None, "fraction": None}
                        | {"seed": seed, "layer": layer, "kv_head": kv_head}
                        | {"nominal": nominal, "kept": kept, "n": n}
                    )
    return pd.DataFrame(rows)


FRACTIONS = (0.05, 0.1, 0.5)


@pytest.fixture
def masked(cells: pd.DataFrame) -> pd.DataFrame:
    """Made-up cells of FullKV: the visual heads once, random ones three times."""
    full = cells[cells["method"] == "fullkv"]
    rows = [full.assign(ablation=None, fraction=np.nan)]
    for fraction in FRACTIONS:
        common = {"fraction": fraction, "ci_low": 0.0, "ci_high": 0.5}
        rows.append(full.assign(ablation="mask_visual", score=0.3 - fraction / 2, **common))
        rows += [
            full.assign(ablation="mask_random", score=0.5 + seed / 10, seed=seed, **common)
            for seed in range(3)
        ]
    return pd.concat(rows, ignore_index=True)


PAIRS = {
    ("sparsemm", "sparsemm_flat"): 0.3,
    ("sparsemm_layer_mean", "sparsemm_flat"): 0.2,
    ("sparsemm", "sparsemm_layer_mean"): 0.1,
    ("sparsemm", "snapkv"): 0.5,
}
COMPARED = ("tiny_docvqa", "tiny_ocr", "tiny_chartqa")


@pytest.fixture
def comparisons() -> pd.DataFrame:
    """Made-up differences, and a row over all budgets for each pair."""
    rows = []
    for task in COMPARED:
        for (method, reference), gain in PAIRS.items():
            for budget in (12, 24, 48, 96, np.nan):
                rows.append(
                    {"model": "tiny", "task": task, "method": method, "reference": reference}
                    | {"budget": budget, "difference": gain, "ci_low": gain - 0.05, "ci_high": gain + 0.05}
                )
    return pd.DataFrame(rows)


@pytest.fixture
def decode() -> pd.DataFrame:
    """Made-up decode times of the embedded model: two lengths, two batch sizes, two forms of FullKV."""
    rows = []
    for length in (288, 2048):
        for batch in (1, 32):
            common = {"shape": "tiny", "weights": "abc", "layers": 8, "layers_of": 8, "prompt_tokens": length}
            common |= {"batch_size": batch, "dtype": "float32", "device": "cpu"}
            for method, budget, cache, cost in (
                ("fullkv", np.nan, "dynamic", 1.4),
                ("fullkv", np.nan, "static", 1.0),
                ("snapkv", 16, "ragged", 0.3),
                ("snapkv", 96, "ragged", 0.5),
                ("sparsemm", 16, "ragged", 0.4),
                ("sparsemm", 96, "ragged", 0.6),
            ):
                ms = cost * batch * length / 288
                times = {"decode_ms": ms, "decode_ms_q1": 0.9 * ms, "decode_ms_q3": 1.1 * ms}
                rows.append(common | {"method": method, "budget": budget, "cache": cache} | times)
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


@pytest.fixture
def results(cells, tmp_path):
    """A results folder whose SparseMM cells used a file of head scores that lies in it."""
    folder = tmp_path / "results" / "made_up"
    folder.mkdir(parents=True)
    scores = folder / "tiny.json"
    scores.write_text(
        json.dumps({f"{layer}-{head}": [layer * head / 7] for layer in range(6) for head in range(8)})
    )
    label = f"tiny.json@{hashlib.sha256(scores.read_bytes()).hexdigest()[:12]}"
    table = cells.reindex(columns=list(CELL_COLUMNS)).astype({"head_scores": object})
    table.loc[table["method"] == "sparsemm", "head_scores"] = label
    table["schema_version"] = 1
    table["prompt"] = "image_question"
    table.to_csv(folder / "cells.csv", index=False)
    (folder / "run.json").write_text(json.dumps({"config": {"model": {"head_scores": str(scores)}}}))
    return folder
