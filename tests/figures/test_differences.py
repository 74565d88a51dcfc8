import io

import numpy as np
import pandas as pd
import pytest

from sparsemm.figures import differences_vs_budget, head_concentration
from sparsemm.heads import HeadScores
from sparsemm.heads.concentration import rank_agreement, top_share

TASKS = ("tiny_docvqa", "tiny_ocr", "tiny_chartqa")


def inside(figure) -> None:
    figure.savefig(io.BytesIO(), format="png")
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box is None or figure.bbox.padded(1).contains(*box.min)


def test_the_gain_and_its_two_parts_are_drawn(comparisons):
    figure = differences_vs_budget(comparisons)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [panel.get_title() for panel in panels] == list(TASKS)
    for panel in panels:
        _, *lines = panel.get_lines()  # the first is the line at zero
        assert [set(np.asarray(line.get_ydata())) for line in lines] == [{0.3}, {0.2}, {0.1}]
        assert all(np.asarray(line.get_xdata()).tolist() == [12, 24, 48, 96] for line in lines)
        left, right = panel.get_xlim()
        assert left > right
    inside(figure)


def test_what_cannot_be_drawn_is_said(comparisons):
    with pytest.raises(ValueError, match="needs the columns ci_low"):
        differences_vs_budget(comparisons.drop(columns="ci_low"))
    with pytest.raises(ValueError, match="sparsemm_layer_mean and sparsemm_flat"):
        differences_vs_budget(comparisons[comparisons["reference"] == "snapkv"])
    with pytest.raises(ValueError, match="several models"):
        differences_vs_budget(pd.concat([comparisons, comparisons.assign(model="other")]))


def test_concentration_draws_both_tables():
    hits = np.random.default_rng(0).random((80, 8, 8)).astype(np.float32) ** 6
    scores = HeadScores(hits, {})
    shares, agreement = top_share(scores, resamples=50), rank_agreement(scores, draws=10)
    figure = head_concentration(shares, agreement, title="tiny")
    left, right = figure.axes
    _, measured = left.get_lines()
    np.testing.assert_allclose(np.asarray(measured.get_ydata()), 100 * shares["score_share"])
    assert [np.asarray(line.get_xdata()).tolist() for line in right.get_lines()] == [[10, 30, 40]] * 2
    inside(figure)


def test_concentration_of_one_image_has_no_agreement():
    scores = HeadScores(np.random.default_rng(0).random((1, 4, 4)), {})
    figure = head_concentration(top_share(scores), rank_agreement(scores))
    assert [axes.axison for axes in figure.axes] == [True, False]
    inside(figure)
