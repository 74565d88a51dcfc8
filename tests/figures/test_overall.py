from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparsemm.figures import overall_score, overall_scores, relative_scores
from tests.figures.test_differences import inside


def test_the_overall_score_is_the_root_mean_square_of_ratios_to_fullkv(measured):
    table = overall_scores(measured).set_index("method")
    ratios = [(budget / 128) ** (1 - 0.55) for budget in (12, 16, 24, 32, 48, 96, 128)] * 2
    row: Any = table.loc["snapkv"]
    assert row["overall"] == pytest.approx(np.sqrt(np.mean(np.square(ratios))))
    assert row["points"] == 14
    assert min(ratios) < row["low"] < row["overall"] < row["high"] < max(ratios)
    assert table["overall"].idxmax() == "sparsemm"
    assert "fullkv" not in table.index
    again = overall_scores(measured).set_index("method")
    np.testing.assert_array_equal(table[["low", "high"]], again[["low", "high"]])


def test_only_what_all_methods_have_and_evicts_counts(measured):
    fewer = measured[~((measured["method"] == "random") & (measured["budget"] == 24))]
    assert set(relative_scores(fewer)["budget"]) == {12, 16, 32, 48, 96, 128}
    untouched = measured.assign(n_uncompressed=(measured["budget"] == 128).astype(int))
    assert set(relative_scores(untouched)["budget"]) == {12, 16, 24, 32, 48, 96}
    nothing = measured.assign(score=measured["score"].where(measured["task"] != "tiny_ocr", 0.0))
    assert set(relative_scores(nothing)["task"]) == {"tiny_docvqa"}


def test_seeds_are_averaged_before_they_are_squared(measured):
    random = measured[measured["method"] == "random"]
    two = [random.assign(seed=seed, score=random["score"] + change) for seed, change in ((1, 0.2), (2, -0.2))]
    table = pd.concat([measured[measured["method"] != "random"], *two])
    ours, plain = (overall_scores(one).set_index("method").loc["random"] for one in (table, measured))
    assert ours["overall"] == pytest.approx(plain["overall"])
    assert ours["points"] == plain["points"]


def test_the_figure_shows_every_method_and_task(measured):
    figure: Any = overall_score(measured)
    (panel,) = figure.axes
    assert [text.get_text() for text in panel.get_yticklabels()] == [
        *("SnapKV", "PyramidKV", "AdaKV", "SparseMM", "Random"),
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()][1:] == ["tiny_docvqa", "tiny_ocr"]
    diamonds = [line.get_xdata()[0] for line in panel.lines if line.get_marker() == "d"]
    np.testing.assert_allclose(diamonds, overall_scores(measured)["overall"])
    inside(figure)
    with pytest.raises(ValueError, match="an overall score needs FullKV"):
        overall_score(measured[measured["method"] != "fullkv"])
