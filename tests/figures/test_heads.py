import io

import numpy as np
import pytest

from sparsemm.figures import head_scores


def test_colour_is_the_share_of_the_score_with_layer_zero_at_the_top():
    scores = np.array([[0.0, 1.0, 0.0], [2.0, 0.0, 1.0]])
    figure = head_scores(scores, title="head scores of tiny")
    axes, bar = figure.axes
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()), [[0, 25, 0], [50, 0, 25]])
    bottom, top = axes.get_ylim()
    assert bottom > top
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == (
        "query head",
        "layer",
        "head scores of tiny",
    )
    assert "%" in bar.get_ylabel()


def test_the_best_heads_are_ringed_and_counted():
    scores = np.ones((5, 8))
    scores[3, 6], scores[4, 1] = 21.0, 12.0
    figure = head_scores(scores)
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_offsets(), [[6, 3], [1, 4]])
    assert figure.get_supxlabel() == "ringed: the best 2 heads of 40, 46% of the score"
    assert not head_scores(scores, top=0).axes[0].collections


@pytest.mark.parametrize("shape", [(6, 8), (32, 32), (28, 28), (1, 4), (40, 4)])
def test_every_label_lies_inside_the_figure(shape):
    figure = head_scores(np.random.default_rng(0).random(shape) ** 4, title="head scores of a model")
    figure.savefig(io.BytesIO(), format="png")
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box is not None
        assert figure.bbox.padded(1).contains(*box.min)
        assert figure.bbox.padded(1).contains(*box.max)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.ones(4), "a table"),
        (np.ones((0, 4)), "a table"),
        (np.zeros((2, 2)), "positive sum"),
        (np.array([[1.0, np.nan]]), "finite"),
        (np.array([[1.0, -1.0, 3.0]]), "non-negative"),
    ],
)
def test_what_are_no_scores_is_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        head_scores(scores)


def test_top_must_be_a_share():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        head_scores(np.ones((2, 2)), top=5)
