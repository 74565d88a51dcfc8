import numpy as np
import pandas as pd
import pytest

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
