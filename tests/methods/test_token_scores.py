"""Token scores against the plain formula, and their indifference to padding."""

import pytest
import torch

from sparsemm.methods import SnapKV
from tests.methods import reference

WINDOW = 4


def tensors(length: int, kv_heads: int = 2, group: int = 1, batch: int = 1):
    generator = torch.Generator().manual_seed(length + 10 * group)
    query = 2 * torch.randn(batch, kv_heads * group, length, 8, generator=generator)
    key = torch.randn(batch, kv_heads, length, 8, generator=generator)
    return query, key


@pytest.mark.parametrize("group", [1, 3], ids=["mha", "gqa"])
@pytest.mark.parametrize("pooling", ["avg", "max"])
@pytest.mark.parametrize("gqa", ["mean", "max"])
@pytest.mark.parametrize(("kernel", "scaling"), [(5, None), (1, 0.1)])
def test_equals_the_formula(group, pooling, gqa, kernel, scaling):
    method = SnapKV(8, window=WINDOW, pooling=pooling, gqa=gqa, kernel=kernel)
    query, key = tensors(17, group=group)
    expected = reference.token_scores(
        query[0].tolist(),
        key[0].tolist(),
        WINDOW,
        kernel=kernel,
        pooling=pooling,
        gqa=gqa,
        scaling=scaling,
    )
    scores = method.token_scores(query, key, scaling, None)
    assert scores.shape == (1, 2, 13)
    torch.testing.assert_close(scores[0].double(), torch.tensor(expected, dtype=torch.float64))


def test_the_last_queries_are_enough():
    query, key = tensors(17, group=2)
    method = SnapKV(8, window=WINDOW)
    whole = method.token_scores(query, key, None, None)
    assert torch.equal(method.token_scores(query[:, :, -WINDOW:], key, None, None), whole)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_a_padded_row_scores_as_alone(pooling):
    method = SnapKV(8, window=WINDOW, pooling=pooling)
    query, key = tensors(20, group=2, batch=3)
    valid = torch.ones(3, 20, dtype=torch.bool)
    valid[1, :5] = False
    valid[2, :14] = False
    # What stands in the padding must not matter, however large.
    key[1, :, :5], key[2, :, :14] = 50.0, -50.0
    batch = method.token_scores(query, key, None, valid)
    for row, padding in enumerate([0, 5, 14]):
        alone = method.token_scores(
            query[row : row + 1, :, padding:], key[row : row + 1, :, padding:], None, None
        )
        torch.testing.assert_close(batch[row, :, padding:], alone[0], rtol=1e-6, atol=1e-8)
        assert not batch[row, :, :padding].any()


def test_rows_shorter_than_the_window_are_zero():
    query, key = tensors(10, batch=2)
    valid = torch.ones(2, 10, dtype=torch.bool)
    valid[1, :8] = False
    scores = SnapKV(8, window=WINDOW).token_scores(query, key, None, valid)
    assert torch.equal(scores[1], torch.zeros(2, 6))
    assert scores[0].isfinite().all()


def test_prompts_within_the_window_have_no_scores():
    query, key = tensors(WINDOW)
    assert SnapKV(8, window=WINDOW).token_scores(query, key, None, None).shape == (1, 2, 0)


def test_low_precision_is_scored_in_float32():
    query, key = (tensor.bfloat16() for tensor in tensors(20))
    method = SnapKV(8, window=WINDOW)
    low = method.token_scores(query, key, None, None)
    assert low.dtype == torch.float32
    assert torch.equal(low, method.token_scores(query.float(), key.float(), None, None))


def test_too_few_queries_and_unequal_groups_are_refused():
    query, key = tensors(20, group=3)
    method = SnapKV(8, window=WINDOW)
    with pytest.raises(ValueError, match="the window has 4 queries, got 3"):
        method.token_scores(query[:, :, -3:], key, None, None)
    with pytest.raises(ValueError, match="5 query heads cannot be shared by 2 KV heads"):
        method.token_scores(query[:, :5], key, None, None)
