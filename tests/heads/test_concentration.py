"""Top shares and rank agreement against plain computations, and what they say of known scores."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import rankdata

from sparsemm.heads import HeadScores
from sparsemm.heads.concentration import rank_agreement, top_share, write_statistics


def scores(images=60, noise=0.0, heads=12):
    rng = np.random.default_rng(0)
    visual = np.geomspace(1, 1e-3, heads)
    hits = visual * (1 - noise) + noise * rng.exponential(size=(images, heads))
    return HeadScores(hits.reshape(images, 3, heads // 3).astype(np.float32), {})


def test_share_of_the_best_heads():
    table = top_share(scores(), resamples=50)
    visual = np.geomspace(1, 1e-3, 12)
    np.testing.assert_allclose(table["score_share"], visual.cumsum() / visual.sum(), rtol=1e-5)
    np.testing.assert_allclose(table["ci_low"], table["score_share"], rtol=1e-5)  # all images alike
    assert table["heads"].tolist() == list(range(1, 13))
    assert table["heads_share"].iloc[-1] == table["score_share"].iloc[-1] == pytest.approx(1)


def test_the_interval_is_a_bootstrap_over_images():
    noisy = scores(noise=0.5)
    table = top_share(noisy, resamples=500, seed=3)
    rng = np.random.default_rng(9)
    hits = noisy.hits.reshape(60, -1)
    firsts = []
    for _ in range(500):
        drawn = hits[rng.integers(0, 60, 60)].mean(axis=0)
        firsts.append(drawn.max() / drawn.sum())
    low, high = np.percentile(firsts, (2.5, 97.5))
    assert table["ci_low"][0] == pytest.approx(low, abs=0.02)
    assert table["ci_high"][0] == pytest.approx(high, abs=0.02)
    assert table["ci_low"][0] < table["ci_high"][0]


def test_rank_agreement_is_spearmans():
    noisy = scores(images=8, noise=0.3)
    table: Any = rank_agreement(noisy, sizes=(4,), draws=300).set_index("against")
    hits = noisy.hits.reshape(8, -1).astype(float)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        chosen = hits[rng.choice(8, 4, replace=False)].sum(axis=0)
        ranks = [rankdata(chosen), rankdata(hits.sum(axis=0) - chosen)]
        found.append(np.corrcoef(*ranks)[0, 1])
    assert table.loc["others", "rank_correlation"] == pytest.approx(np.mean(found))
    assert table.loc["all", "rank_correlation"] > table.loc["others", "rank_correlation"]


def test_more_images_agree_better_and_sizes_above_half_are_left_out():
    table = rank_agreement(scores(images=100, noise=0.3), draws=60)
    others = table[table["against"] == "others"]
    assert others["images"].tolist() == [10, 30, 50]  # half of all comes last
    assert others["rank_correlation"].is_monotonic_increasing
    assert (table["low"] <= table["rank_correlation"]).all()
    assert (table["rank_correlation"] <= table["high"]).all()


def test_heads_that_are_all_equal_agree_with_nothing():
    hits = np.ones((4, 2, 2), dtype=np.float32)
    assert (rank_agreement(HeadScores(hits, {}), sizes=(2,), draws=3)["rank_correlation"] == 0).all()


def test_written_beside_the_scores(tmp_path):
    paths = write_statistics(scores(), tmp_path / "tiny.safetensors")
    assert [path.name for path in paths] == ["tiny.top_share.csv", "tiny.rank_agreement.csv"]
    assert all(path.read_text().startswith(("heads,", "images,")) for path in paths)
