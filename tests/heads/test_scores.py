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
        ("a.json", b'{"0-0": [1], "0-1": [1], "1-1": [1]}', "3 heads are no full table .* 1-0 is missing"),
        ("a.json", b'{"0-0": [1], "0-0": [2]}', "0-0 stands there twice"),
        ("a.json", b'{"0-0": [1], "00-1": [2]}', "layer-head"),
        ("a.json", b'{"0-0": [1, -2]}', "finite and not negative, 0-0 has -2"),
        ("a.json", b'{"0-0": [Infinity]}', "finite and not negative, 0-0 has inf"),
        ("a.json", b'{"0-0": []}', r"0-0 must have a list of numbers, got \[\]"),
        ("a.json", b'{"0-0": ["1"]}', "0-0 must have a list of numbers"),
        ("a.json", b'{"0-0": 1}', "0-0 must have a list of numbers, got 1"),
        ("a.json", b'{"0-0": [0]}', "not all zero"),
        ("a.json", b"[[1, 2]]", "layer-head"),
        ("a.safetensors", b"\x00" * 40, "no usable head scores"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        HeadScores.load(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_card_in_place_of_the_scores_is_recognised(tmp_path):
    path = scores(rule="aligned").save(tmp_path / "heads.safetensors")
    with pytest.raises(ValueError, match=r"it is the card of scores, not the scores: name the \.safetensors"):
        HeadScores.load(path.with_suffix(".json"))


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"schema_version": 2}, "has schema_version 2, this sparsemm reads 1"),
        ({"shape": [5, 4, 3]}, r"describes other scores: shape \[5, 4, 3\], the file's is \[5, 3, 4\]"),
        ([], "is no JSON object"),
    ],
)
def test_a_card_that_does_not_belong_to_the_scores_is_refused(tmp_path, card, message):
    path = scores().save(tmp_path / "heads.safetensors")
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=message):
        HeadScores.load(path)


def test_scores_of_kv_heads_are_what_the_method_allocates_by():
    shape = ModelShape(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    found = scores().kv_head_scores(shape)
    table = scores().scores / scores().scores.sum()
    np.testing.assert_allclose(found, [[row[0] + row[1], row[2] + row[3]] for row in table])
    assert found.sum() == pytest.approx(1)
    np.testing.assert_array_equal(found, SparseMM(16, scores(), window=4).kv_head_scores(shape).numpy())
    with pytest.raises(
        ValueError, match=r"head scores are \(3, 4\), the model's layers and query heads \(2, 4\)"
    ):
        scores().kv_head_scores(shape._replace(num_hidden_layers=2))


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
