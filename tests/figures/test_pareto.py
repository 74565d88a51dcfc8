from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparsemm.figures import latencies, score_vs_latency, score_vs_memory
from sparsemm.figures.pareto import pareto_front
from tests.figures.test_accuracy import assert_no_overlap, draw


def test_the_front_is_what_nothing_beats():
    cost, score = np.array([3.0, 1.0, 2.0, 2.0, 4.0, 1.0]), np.array([0.9, 0.5, 0.4, 0.7, 0.9, 0.2])
    assert pareto_front(cost, score).tolist() == [1, 3, 0]


def test_bytes_are_those_of_the_cells_and_fullkv_has_a_point(measured):
    figure: Any = score_vs_memory(measured)
    panel = figure.axes[0]
    lines: Any = {line.get_label(): line for line in panel.lines}
    own = measured[(measured["task"] == "tiny_docvqa") & (measured["method"] == "sparsemm")]
    np.testing.assert_allclose(lines["SparseMM"].get_xdata(), own["kv_bytes"] / 1e6)
    np.testing.assert_allclose(lines["SparseMM"].get_ydata(), own["score"])
    assert np.asarray(lines["FullKV"].get_xdata()).tolist() == [6144 * 210 / 1e6]
    left, right = panel.get_xlim()
    assert left < right
    assert "(MB)" in figure.get_supxlabel()
    assert "GB" in score_vs_memory(measured.assign(kv_bytes=measured["kv_bytes"] * 1e4)).get_supxlabel()
    with pytest.raises(ValueError, match="no row has kv_bytes"):
        score_vs_memory(measured.assign(kv_bytes=np.nan))


@pytest.mark.parametrize("least", [0.02, 0.07, 0.3])
def test_labels_of_bytes_do_not_touch(measured, least):
    """Four narrow panels; long labels, such as 0.125 beside 0.25, need more room than budgets do."""
    cost = np.geomspace(least * 1e6, 2.2e6, len(measured))
    table = measured.assign(kv_bytes=cost)
    renamed = table.assign(
        task=table["task"].replace({"tiny_docvqa": "tiny_chartqa", "tiny_ocr": "tiny_textvqa"})
    )
    figure = draw(score_vs_memory(pd.concat([table, renamed])))
    panels: Any = figure.axes
    assert len(panels) == 4
    for panel in panels:
        ticks = [text.get_window_extent().padded(1) for text in panel.get_xticklabels()]
        assert_no_overlap(ticks)
        assert len(ticks) >= 2


def test_times_are_those_of_the_same_method_and_budget_at_the_nearest_length(measured, decode):
    one, many = latencies(measured, decode)
    assert (one.device, one.batch_size, one.prompt_tokens) == ("cpu", 1, {"tiny": 288})
    assert many.batch_size == 32
    assert one.untimed == ["adakv", "pyramidkv", "random"]
    times: Any = one.cells.groupby(["method", "budget"], dropna=False)["decode_ms"].unique()
    assert {(name, budget): list(ms) for (name, budget), ms in times.items() if budget == budget} == {
        **{("snapkv", 16): [0.3], ("snapkv", 96): [0.5], ("sparsemm", 16): [0.4], ("sparsemm", 96): [0.6]}
    }
    full = one.cells[one.cells["method"] == "fullkv"]
    assert full["decode_ms"].tolist() == [1.0, 1.0]  # the faster form, on both tasks
    assert full["score"].tolist() == [0.9, 0.75]


def test_nothing_is_joined_that_does_not_belong_together(measured, decode):
    assert not list(latencies(measured, decode.assign(layers=2)))
    assert not list(latencies(measured, decode.assign(dtype="bfloat16")))
    assert not list(latencies(measured, decode.assign(shape="qwen2_vl_7b")))
    assert not list(latencies(measured, decode.assign(failed="out of memory")))
    assert not list(latencies(measured, decode[decode["method"] != "fullkv"]))
    assert not list(latencies(measured, decode.assign(budget=decode["budget"] + 1)))


def test_the_figure_of_latency_says_what_was_timed(measured, decode):
    _, many = latencies(measured, decode)
    figure: Any = draw(score_vs_latency(many))
    assert figure.get_supxlabel() == "decode (ms/token; 32 prompts of 288 tokens on cpu)"
    lines: Any = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["SnapKV"].get_xdata(), [9.6, 16.0])
    assert np.asarray(lines["FullKV"].get_xdata()).tolist() == [32.0]
