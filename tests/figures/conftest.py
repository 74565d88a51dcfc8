import hashlib
import json

import numpy as np
import pandas as pd
import pytest

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
def results(cells, tmp_path):
    """A results folder whose SparseMM cells used a file of head scores that lies where run.json says."""
    scores = tmp_path / "scores" / "tiny.json"
    scores.parent.mkdir()
    scores.write_text(
        json.dumps({f"{layer}-{head}": [layer * head / 7] for layer in range(6) for head in range(8)})
    )
    label = f"tiny.json@{hashlib.sha256(scores.read_bytes()).hexdigest()[:12]}"
    folder = tmp_path / "results" / "made_up"
    folder.mkdir(parents=True)
    table = cells.reindex(columns=list(CELL_COLUMNS)).astype({"head_scores": object})
    table.loc[table["method"] == "sparsemm", "head_scores"] = label
    table["schema_version"] = 1
    table["prompt"] = "image_question"
    table.to_csv(folder / "cells.csv", index=False)
    (folder / "run.json").write_text(json.dumps({"config": {"model": {"head_scores": str(scores)}}}))
    return folder
