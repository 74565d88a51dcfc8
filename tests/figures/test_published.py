from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparsemm.configs import names, read, shipped
from sparsemm.figures import published_for, published_scores, reproduction_delta, reproduction_deltas
from sparsemm.figures.published import BENCHMARKS, METHODS, MODELS
from sparsemm.figures.style import METRIC_LABELS


def test_every_published_row_is_translated_to_names_that_a_sweep_knows():
    paper = pd.read_csv(shipped("results/reference") / "paper.csv")
    scores = published_scores()
    assert len(scores) == len(paper) == 540
    assert scores.notna().all(axis=None)
    assert not scores.duplicated(["model", "task", "method", "budget"]).any()
    assert set(MODELS.values()) <= set(names("model"))
    assert set(METHODS.values()) <= set(names("method"))
    for benchmark in BENCHMARKS.values():
        assert read("task", benchmark.task)["metric"] == benchmark.metric
        assert benchmark.metric in METRIC_LABELS


@pytest.mark.parametrize(
    ("model", "task", "method", "budget", "score"),
    [
        ("llava_next_vicuna_7b", "docvqa_val", "sparsemm", 2048, 0.6841),
        ("llava_next_mistral_7b", "ocrbench", "snapkv", 64, 0.319),
        ("qwen2_vl_7b", "textcaps_val", "random", 64, 0.8116),
        ("qwen2_vl_7b", "mmbench_en_dev_static", "sparsemm", 48, 77.92),  # per cent, as lmms-eval's
        ("qwen2_vl_7b", "gqa", "adakv", 96, 0.6255),  # per cent in the paper
        ("qwen2_vl_7b", "vqav2_val", "pyramidkv", 48, 0.6888),
    ],
)
def test_scores_are_in_the_units_of_the_tasks(model, task, method, budget, score):
    scores = published_scores().set_index(["model", "task", "method", "budget"])["score"]
    assert scores[model, task, method, budget] == pytest.approx(score)


def test_another_metric_of_a_task_is_not_compared(official):
    assert set(published_for(official)["task"]) == set(official["task"])
    other = official.assign(metric=official["metric"].replace("relaxed_overall", "relaxed_human_split"))
    assert "chartqa" not in set(published_for(other)["task"])
    assert published_for(official.assign(model="tiny")).empty


def test_deltas_are_ours_minus_the_papers(official):
    deltas = reproduction_deltas(official)
    assert len(deltas) == 3 * 5 * 5 * 3  # models, tasks, methods, budgets
    row = deltas[(deltas["model"] == "qwen2_vl_7b") & (deltas["task"] == "docvqa_val")]
    row = row[(row["method"] == "sparsemm") & (row["budget"] == 64)].iloc[0]
    assert row["published"] == 0.8493
    assert row["delta"] == pytest.approx(row["score"] - 0.8493)


def test_the_figure_of_deltas_draws_them_with_our_intervals(official):
    banded = official.assign(ci_low=official["score"] - 0.02, ci_high=official["score"] + 0.02)
    figure: Any = reproduction_delta(banded)
    panels = [panel for panel in figure.axes if panel.axison]
    assert len(panels) == 15
    deltas = reproduction_deltas(official)
    own = deltas[(deltas["model"] == "llava_next_vicuna_7b") & (deltas["task"] == "docvqa_val")]
    lines = {line.get_label(): line for line in panels[0].lines}
    expected = own[own["method"] == "snapkv"].sort_values("budget")["delta"]
    np.testing.assert_allclose(lines["SnapKV"].get_ydata(), expected)
    band = panels[0].collections[0].get_paths()[0].vertices[:, 1]
    first = own[own["method"] == "snapkv"]["delta"]
    assert band.min() == pytest.approx(first.min() - 0.02)
    with pytest.raises(ValueError, match="no published score"):
        reproduction_delta(official.assign(model="tiny"))
