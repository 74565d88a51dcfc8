"""SparseMM's head scores: what is accepted, how they are summed, and the controls."""

import json
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sparsemm.configs import shipped
from sparsemm.figures import head_scores
from sparsemm.heads import HeadScores
from sparsemm.heads.ablation import MaskVisual
from sparsemm.heads.overlap import overlap
from sparsemm.methods import ModelShape, SnapKV, SparseMM
from tests.methods.cases import visual_scores

SHAPE = ModelShape(4, 6, 3, 8)
N = torch.tensor([100])


@dataclass
class ScoreFile:
    scores: Tensor


def quotas(method) -> torch.Tensor:
    """[layers, Hkv] for 100 tokens before the window."""
    return torch.cat([method.quotas(torch.empty(1, 3, 100), N, layer, SHAPE) for layer in range(4)])


def test_head_scores_come_as_tensor_list_or_file():
    scores = visual_scores(SHAPE)
    expected = quotas(SparseMM(40, scores))
    for same in (scores.tolist(), scores.numpy(), ScoreFile(scores), 1000 * scores):
        assert torch.equal(quotas(SparseMM(40, same)), expected)


def test_later_changes_of_the_given_scores_change_nothing():
    scores = visual_scores(SHAPE)
    method = SparseMM(40, scores)
    scores.zero_()
    assert torch.equal(quotas(method), quotas(SparseMM(40, visual_scores(SHAPE))))


def test_a_kv_head_has_the_sum_of_its_group():
    scores = torch.zeros(4, 6)
    scores[1, 2], scores[1, 3], scores[3, 0] = 1.0, 1.0, 2.0
    kv_scores = SparseMM(40, scores).kv_head_scores(SHAPE)
    assert kv_scores.nonzero().tolist() == [[1, 1], [3, 0]]
    assert kv_scores[1, 1] == kv_scores[3, 0] == 0.5


def test_visual_heads_keep_more():
    scores = torch.full((4, 6), 0.1)
    scores[2, 4] = 5.0
    table = quotas(SparseMM(52, scores))
    assert table.flatten().argmax() == 2 * 3 + 2
    assert table.max() == 100
    assert table.sum() == 20 * 12


def test_layer_mean_keeps_the_layers_and_levels_their_heads():
    scores = visual_scores(SHAPE)
    control = SparseMM(40, scores, control="layer_mean")
    own, mean = SparseMM(40, scores).kv_head_scores(SHAPE), control.kv_head_scores(SHAPE)
    torch.testing.assert_close(mean.sum(dim=1), own.sum(dim=1))
    assert bool((mean == mean[:, :1]).all())
    # A layer's heads differ by the one token of rounding at most.
    table = quotas(control)
    assert int((table.amax(dim=1) - table.amin(dim=1)).max()) <= 1


def test_shuffled_gives_the_same_quotas_to_other_heads():
    scores = visual_scores(SHAPE)
    own = quotas(SparseMM(40, scores, overflow="drop"))
    shuffled = [quotas(SparseMM(40, scores, overflow="drop", control="shuffled", seed=s)) for s in (0, 0, 1)]
    assert torch.equal(shuffled[0], shuffled[1])
    assert not torch.equal(shuffled[0], shuffled[2])
    for table in shuffled:
        assert not torch.equal(table, own)
        assert sorted(table.flatten().tolist()) == sorted(own.flatten().tolist())


def test_flat_is_snapkv():
    assert torch.equal(quotas(SparseMM(40, visual_scores(SHAPE), control="flat")), quotas(SnapKV(40)))


def test_scores_of_another_shape_are_refused_when_the_model_is_known():
    method = SparseMM(40, torch.ones(4, 5))
    with pytest.raises(ValueError, match=r"head scores are \(4, 5\), .* \(4, 6\)"):
        quotas(method)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.ones(4), "shape"),
        (torch.ones(1, 4, 6), "shape"),
        ([[1.0, float("nan")]], "finite"),
        ([[1.0, float("inf")]], "finite"),
        ([[1.0, -0.1]], "not negative"),
        (torch.zeros(4, 6), "positive"),
        (torch.zeros(0, 6), "positive"),
        ("visual", "numbers"),
        (None, "numbers"),
        ([[1.0], [1.0, 2.0]], "numbers"),
    ],
)
def test_bad_scores_are_refused_in_one_line(scores, message):
    with pytest.raises(ValueError, match=message) as error:
        SparseMM(40, scores)
    assert "\n" not in str(error.value)


def test_a_path_is_taken_as_its_scores(tmp_path):
    """Wherever head scores are taken: a file of `HeadScores`, as a text or path, or the released JSON."""
    file = shipped("results/head_scores/tiny.safetensors")
    held = HeadScores.load(file)
    layers, heads = held.scores.shape
    released = tmp_path / "released.json"
    table = {
        f"{layer}-{head}": [held.scores[layer, head]] for layer in range(layers) for head in range(heads)
    }
    released.write_text(json.dumps(table))
    expected = SparseMM(40, held).head_scores
    for given in (file, str(file), released):
        assert torch.equal(SparseMM(40, given).head_scores, expected)
    assert (MaskVisual(0.1, str(file)).heads() == MaskVisual(0.1, held).heads()).all()  # pyright: ignore
    assert overlap(file, str(released), resamples=2)["common_share"].eq(1).all()
    assert head_scores(str(file)).axes
    with pytest.raises(ValueError, match=r"or a file of them: no head scores at none\.safetensors"):
        SparseMM(40, "none.safetensors")
    (tmp_path / "broken.safetensors").write_text("scores")
    with pytest.raises(ValueError, match=r"broken\.safetensors holds no usable head scores"):
        SparseMM(40, tmp_path / "broken.safetensors")


def test_a_seed_that_draws_nothing_is_refused():
    for control in (None, "flat", "layer_mean"):
        with pytest.raises(ValueError, match="seed belongs to control='shuffled'"):
            SparseMM(40, visual_scores(SHAPE), control=control, seed=1)
    assert SparseMM(40, visual_scores(SHAPE), control="shuffled", seed=1).seed == 1
