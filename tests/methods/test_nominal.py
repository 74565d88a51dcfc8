"""Nominal quotas: what a method's rule wants for each head before a prompt's length cuts it."""

import pytest
import torch

from sparsemm.methods import ModelShape, PyramidKV, SparseMM
from tests.methods.cases import METHODS, visual_scores

SHAPE = ModelShape(num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=4, head_dim=16)
BUDGET, WINDOW, LONG = 40, 8, 100_000
EVICTING = [name for name in METHODS if name != "fullkv"]


@pytest.mark.parametrize("name", EVICTING)
def test_nominal_quotas_are_those_of_a_prompt_too_long_to_cut_them(name):
    """Of AdaKV, whose heads compete anew in every prompt, the mean of a layer."""
    method = METHODS[name](BUDGET, WINDOW, SHAPE)
    nominal = method.nominal_quotas(300, SHAPE)
    assert nominal.shape == (4, 4)
    if name.startswith("adakv"):
        assert (nominal == BUDGET - WINDOW).all()
        return
    scores = torch.zeros(1, SHAPE.num_key_value_heads, 0)
    for layer in range(4):
        torch.testing.assert_close(
            nominal[layer], method.quotas(scores, torch.tensor([LONG]), layer, SHAPE)[0]
        )


@pytest.mark.parametrize("name", [name for name in EVICTING if "released" not in name])
def test_exact_methods_share_out_the_whole_budget(name):
    nominal = METHODS[name](BUDGET, WINDOW, SHAPE).nominal_quotas(300, SHAPE)
    assert nominal.double().mean() == BUDGET - WINDOW


def test_heads_that_want_more_than_a_prompt_has_are_not_cut():
    method = SparseMM(BUDGET, visual_scores(SHAPE), window=WINDOW)
    nominal, n = method.nominal_quotas(50, SHAPE), 42
    real = torch.stack(
        [method.quotas(torch.zeros(1, 4, 0), torch.tensor([n]), i, SHAPE)[0] for i in range(4)]
    )
    assert nominal.max() > n == real.max()
    assert nominal.sum() == real.sum()  # what one head cannot hold goes to others


def test_a_share_is_one_of_the_given_prompt():
    method = PyramidKV(0.25, window=WINDOW)
    assert method.nominal_quotas(200, SHAPE).double().mean() == 50 - WINDOW
