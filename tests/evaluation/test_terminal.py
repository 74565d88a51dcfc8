"""What a finished sweep prints: every score whole, on narrow terminals too; seeds as their mean."""

import io
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from sparsemm.evaluation.planning import plan
from sparsemm.evaluation.sweep import Outcome
from sparsemm.evaluation.terminal import print_outcomes
from tests.composing import composed

BUDGETS = [8, 12, 16, 24, 32, 48, 64, 96, 128, 320]


@pytest.fixture(scope="module")
def outcome(untrained: Path) -> Outcome:
    """Made-up scores of planned cells: the budget over 1000, and the seed over 100."""
    cells = plan(
        composed(
            "sweep",
            *("task=[tiny_ocr]", "method=[fullkv,snapkv,random]", "methods.random.seed=[0,1,2]"),
            *(f"model.pretrained={untrained}", "model.window=8", f"budget=[{','.join(map(str, BUDGETS))}]"),
        )
    )
    rows = [cell.columns() for cell in cells]
    for row in rows:
        row |= {"n": 500, "score": (row["budget"] or 0) / 1000 + (row["seed"] or 0) / 100}
    return Outcome(cells, Path("results/made"), pd.DataFrame(rows))


@pytest.mark.parametrize("width", [60, 80, 200])
def test_scores_are_whole_on_terminals_of_every_width(outcome, width):
    console = Console(file=io.StringIO(), width=width)
    assert print_outcomes([outcome], console) == 0
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    lines = [[part.strip() for part in line.strip("│").split("│")] for line in shown.splitlines()]
    snapkv = [score for line in lines if line[0] == "snapkv" for score in line[1:]]
    assert snapkv == [f"{budget / 1000:.3f}" for budget in BUDGETS]
    random = [score for line in lines if line[0] == "random, 3 seeds" for score in line[1:]]
    assert random == [f"{budget / 1000 + 0.01:.3f}" for budget in BUDGETS]
    assert shown.count("method \\ budget") == (1 if width == 200 else 2)


def test_other_parameters_are_not_averaged(outcome):
    twice = pd.concat([outcome.table, outcome.table.assign(score=0.5)])
    console = Console(file=io.StringIO(), width=200)
    print_outcomes([Outcome(outcome.cells, outcome.folder, twice)], console)
    assert "0.008 0.500" in console.file.getvalue()  # type: ignore[attr-defined]
