"""Which heads an ablation switches off."""

from typing import Any

import numpy as np
import pytest

from sparsemm.heads import HeadScores
from sparsemm.heads.ablation import MaskRandom, MaskVisual

SCORES = HeadScores(np.random.default_rng(0).random((5, 6, 10)).astype(np.float32))
FRACTIONS = (0.01, 0.05, 0.1, 0.25, 0.5)


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_visual_heads_are_those_of_highest_score(fraction: float) -> None:
    mask = MaskVisual(fraction, SCORES).heads()
    assert mask.shape == (6, 10)
    assert mask.dtype == bool
    assert mask.sum() == max(1, round(fraction * 60))
    assert SCORES.scores[mask].min() >= SCORES.scores[~mask].max()


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_random_heads_are_as_many_others(fraction: float) -> None:
    visual = MaskVisual(fraction, SCORES).heads()
    drawn = [MaskRandom(fraction, SCORES, seed=seed).heads() for seed in range(20)]
    for mask in drawn:
        assert mask.sum() == visual.sum()
        assert not (mask & visual).any()
    assert np.array_equal(drawn[0], MaskRandom(fraction, SCORES).heads())  # seed 0 by default
    if fraction < 0.5:
        assert len({mask.tobytes() for mask in drawn}) > 1


def test_equal_scores_are_taken_in_order() -> None:
    equal = HeadScores(np.ones((1, 2, 4), dtype=np.float32))
    assert MaskVisual(0.25, equal).heads().tolist() == [[True, True, False, False], [False] * 4]


@pytest.mark.parametrize(
    ("rule", "fraction", "options", "message"),
    [
        (MaskVisual, 0, {}, r"fraction must be a share of the heads in \(0, 1\], got 0"),
        (MaskVisual, 1.5, {}, "fraction must be a share"),
        (MaskVisual, True, {}, "fraction must be a share"),
        (MaskVisual, "half", {}, "fraction must be a share"),
        (MaskVisual, 0.1, {"mode": "zero"}, "mode must be one of 'remove', 'uniform', got 'zero'"),
        (MaskRandom, 0.6, {}, "fraction must be at most 0.5 for random heads"),
        (MaskRandom, 0.1, {"seed": -1}, "seed must be an integer from 0 on"),
    ],
)
def test_wrong_values_are_refused(rule: Any, fraction: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(fraction, SCORES, **options)
