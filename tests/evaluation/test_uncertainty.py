"""Intervals: against scipy's bootstrap, paired, honest about metrics that are no mean."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from sparsemm.evaluation.uncertainty import interval, intervals

RNG = np.random.default_rng(3)


def cell(scores, score=None):
    mean = sum(scores) / len(scores)
    return {"row": {"score": mean if score is None else score}, "samples": {"score": list(scores)}}


@pytest.mark.parametrize("values", [RNG.random(200), RNG.random(120) < 0.9, RNG.random(40) ** 4])
def test_interval_is_scipys(values):
    values = values.astype(float)
    theirs = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=1).confidence_interval
    width = theirs.high - theirs.low
    low, high = interval(list(values))
    assert low == pytest.approx(theirs.low, abs=0.08 * width)
    assert high == pytest.approx(theirs.high, abs=0.08 * width)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    draws = RNG.random((400, 100)) < 0.7
    inside = [low <= 0.7 <= high for low, high in (interval(list(row.astype(float))) for row in draws)]
    assert 0.90 <= np.mean(inside) <= 0.99


def test_differences_are_paired():
    """A constant loss on every document is known exactly, however much documents differ."""
    full = RNG.random(100)
    columns = intervals(cell(full - 0.1), cell(full))
    assert columns["diff_ci_low"] == pytest.approx(-0.1)
    assert columns["diff_ci_high"] == pytest.approx(-0.1)
    assert columns["ci_high"] - columns["ci_low"] > 0.05


def test_equal_to_full_is_exactly_zero_and_repeats():
    full = cell(RNG.random(50))
    columns = intervals(full, full)
    assert columns["diff_ci_low"] == columns["diff_ci_high"] == 0
    assert columns == intervals(full, full)


def test_no_interval_where_the_metric_is_no_mean():
    assert intervals(cell([0.5, 1.0], score=0.2), None) == {}
    assert intervals({"row": {"score": 0.5}, "samples": {"score": [None, 1.0]}}, None) == {}
    assert set(intervals(cell([0.5, 1.0]), None)) == {"ci_low", "ci_high"}
