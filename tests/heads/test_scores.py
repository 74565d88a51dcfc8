"""The file of head scores: round trip, the released form, and refusals in one line."""

import json

import numpy as np
import pytest

from sparsemm import ModelShape, SparseMM
from sparsemm.heads import HeadScores


def scores(**card):
    hits = np.random.default_rng(0).random((5, 3, 4)).astype(np.float32)
    return HeadScores(hits, card)


def test_round_trip(tmp_path):
    path = scores(rule="aligned", n=5).save(tmp_path / "deep" / "heads.safetensors")
    loaded = HeadScores.load(path)
    np.testing.assert_array_equal(loaded.hits, scores().hits)
    assert loaded.scores.dtype == np.float64
    np.testing.assert_allclose(loaded.scores, scores().hits.astype(np.float64).mean(0))
    assert loaded.card["rule"] == "aligned"
    assert loaded.card["shape"] == [5, 3, 4]
    assert sorted(p.name for p in path.parent.iterdir()) == ["heads.json", "heads.safetensors"]


def test_released_form(tmp_path):
    table = {f"{layer}-{head}": [layer, head] for layer in range(3) for head in (1, 0)}
    (tmp_path / "released.json").write_text(json.dumps(table))
    loaded = HeadScores.load(tmp_path / "released.json")
    np.testing.assert_allclose(loaded.scores, [[0.0, 0.5], [0.5, 1.0], [1.0, 1.5]])


def test_method_takes_them():
    method = SparseMM(16, scores(), window=4)
    shape = ModelShape(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    quotas = method.allocation(40, shape)
    assert quotas.sum() == 3 * 2 * 12


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{}", "layer-head"),
        ("a.json", b'{"0-0": [1], "1-1": [1]}', "no full table"),
        ("a.json", b'{"0-0": [NaN]}', "finite"),
        ("a.json", b"{", "no usable head scores"),
        ("a.safetensors", b"\x00" * 40, "no usable head scores"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        HeadScores.load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_truncated_and_cardless_files_are_refused(tmp_path):
    path = scores().save(tmp_path / "heads.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="no usable head scores"):
        HeadScores.load(path)
    path.write_bytes(whole)
    path.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match="no card"):
        HeadScores.load(path)
    with pytest.raises(FileNotFoundError, match="no head scores at"):
        HeadScores.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="safetensors"):
        scores().save(tmp_path / "heads.json")


@pytest.mark.parametrize("hits", [np.zeros((3, 4)), np.full((1, 2, 2), np.nan), -np.ones((1, 2, 2))])
def test_wrong_values_are_refused(hits):
    with pytest.raises(ValueError, match="head scores must be"):
        HeadScores(hits)
