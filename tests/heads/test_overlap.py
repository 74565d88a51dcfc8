"""The overlap of two files' top heads: by hand, against chance, its interval, and the command."""

import json

import numpy as np
import pandas as pd
import pytest

from sparsemm import cli
from sparsemm.configs import InputError
from sparsemm.heads import HeadScores
from sparsemm.heads.overlap import overlap


def from_order(order, images=1):
    """Scores whose heads, flat, rank in this order."""
    flat = np.empty(len(order))
    flat[list(order)] = np.arange(len(order), 0, -1)
    return HeadScores(np.tile(flat.reshape(1, 2, -1), (images, 1, 1)).astype(np.float32), {})


def test_by_hand():
    one, other = from_order(range(10)), from_order([0, 2, 1, 9, 8, 7, 6, 5, 4, 3])
    table = overlap(one, other, shares=(0.1, 0.12, 0.2, 0.3, 0.5, 1))
    assert table["heads"].tolist() == [1, 2, 3, 5, 10]  # 0.1 and 0.12 are both one head
    assert table["common"].tolist() == [1, 1, 3, 3, 10]
    np.testing.assert_allclose(table["common_share"], [1, 0.5, 1, 0.6, 1])
    np.testing.assert_allclose(table["chance"], [0.1, 0.2, 0.3, 0.5, 1])
    assert table[["ci_low", "ci_high"]].isna().all(axis=None)  # one image each: nothing to resample


def test_random_heads_have_chance_in_common():
    rng = np.random.default_rng(0)
    found = [
        overlap(from_order(rng.permutation(40)), from_order(rng.permutation(40)), resamples=1)["common_share"]
        for _ in range(400)
    ]
    expected = overlap(from_order(range(40)), from_order(range(40)), resamples=1)["chance"]
    np.testing.assert_allclose(np.mean(found, axis=0), expected, atol=0.04)


def test_the_interval_resamples_images_and_only_where_there_are_several():
    rng = np.random.default_rng(1)
    hits = (np.geomspace(1, 0.2, 20) + rng.exponential(size=(40, 20))).reshape(40, 4, 5).astype(np.float32)
    noisy, fixed = HeadScores(hits, {}), HeadScores(hits.mean(axis=0, keepdims=True), {})
    row = overlap(noisy, fixed, shares=(0.25,), seed=4).iloc[0]
    best = set(np.argsort(-hits.mean(axis=0), axis=None)[:5])
    found = []
    for _ in range(2000):
        drawn = hits[rng.integers(0, 40, 40)].mean(axis=0)
        found.append(len(best & set(np.argsort(-drawn, axis=None)[:5])) / 5)
    low, high = np.percentile(found, (2.5, 97.5))
    assert row["common_share"] == 1
    assert row["ci_low"] == pytest.approx(low, abs=0.2)
    assert row["ci_high"] == pytest.approx(high, abs=0.2)
    assert row["ci_low"] < 1
    same = overlap(from_order(range(10), images=6), from_order(range(10), images=3))
    assert (same["ci_low"] == 1).all()  # images that are all alike


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="not of one model: layers x query heads are 2 x 5 and 2 x 3"):
        overlap(from_order(range(10)), from_order(range(6)))
    with pytest.raises(InputError, match=r"shares of the heads lie in \(0, 1\], got \[0\]"):
        overlap(from_order(range(10)), from_order(range(10)), shares=(0,))


def test_the_command(tmp_path, capsys):
    one = from_order(range(10), images=3).save(tmp_path / "one.safetensors")
    released = {f"{layer}-{head}": [10 - 5 * layer - head, 0] for layer in range(2) for head in range(5)}
    (tmp_path / "released.json").write_text(json.dumps(released))
    target = tmp_path / "deep" / "overlap.csv"
    assert cli.main(["overlap", str(one), str(tmp_path / "released.json"), "--output", str(target)]) == 0
    table = pd.read_csv(target)
    assert (table["common_share"] == 1).all()
    shown = capsys.readouterr().out
    assert "by chance" in shown
    assert "100.0%" in shown
    assert cli.main(["overlap", str(one.with_suffix(".json")), str(one)]) == 2
    assert "it is the card of scores" in capsys.readouterr().err
    assert cli.main(["overlap", str(one), str(tmp_path / "none.json")]) == 2
    assert capsys.readouterr().err.startswith("sparsemm: no such file: ")
