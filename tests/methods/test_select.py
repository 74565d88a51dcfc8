"""Kept indices of the whole matrix: windows, padding, full prompts, and the formulas end to end."""

import pytest
import torch

from sparsemm.methods import FullKV, KVMethod, ModelShape, SnapKV, kept_mask, prompt_lengths, select, top_mask
from sparsemm.methods.head_scored import HeadScored
from sparsemm.methods.select import kept_and_counts
from tests.methods import reference
from tests.methods.cases import DESIGNED, EVICTS_AT_THE_PROMPT, METHODS, visual_scores

WINDOW, LENGTH, PADDING = 8, 48, 11
SHAPES = {"mha": ModelShape(3, 4, 4, 8), "gqa": ModelShape(3, 6, 2, 8)}

everything = pytest.mark.parametrize("name", METHODS)
both_shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def prompt(shape: ModelShape, batch: int = 1, length: int = LENGTH):
    generator = torch.Generator().manual_seed(batch * length + shape.num_key_value_heads)
    query = 2 * torch.randn(batch, shape.num_attention_heads, length, shape.head_dim, generator=generator)
    key = torch.randn(batch, shape.num_key_value_heads, length, shape.head_dim, generator=generator)
    return query, key


def left_padded(batch: int = 2, padding: int = PADDING, length: int = LENGTH) -> torch.Tensor:
    valid = torch.ones(batch, length, dtype=torch.bool)
    valid[-1, :padding] = False
    return valid


@pytest.mark.parametrize("name", DESIGNED)
@both_shapes
@pytest.mark.parametrize("budget", [WINDOW, 20, 36, 0.5, LENGTH, LENGTH + 7])
def test_kept_indices_are_the_methods(name, shape, budget):
    method = METHODS[name](budget, WINDOW, shape)
    query, key = prompt(shape)
    for layer in range(shape.num_hidden_layers):
        kept = select(method, query, key, layer=layer, shape=shape)[0]
        assert [head.tolist() for head in kept] == expected(name, query, key, layer, shape, budget)


def expected(name, query, key, layer, shape, budget):
    """The kept positions from the plain formulas alone."""
    if name == "fullkv":
        return [list(range(LENGTH))] * shape.num_key_value_heads
    n, layers, heads = LENGTH - WINDOW, shape.num_hidden_layers, shape.num_key_value_heads
    tokens = budget if isinstance(budget, int) else max(WINDOW, round(budget * LENGTH))
    b = tokens - WINDOW
    if name == "streaming_llm":
        return [reference.streaming_llm(LENGTH, tokens)] * heads
    original = name == "adakv_original"
    scores = reference.token_scores(
        query[0].tolist(),
        key[0].tolist(),
        WINDOW,
        kernel=7 if original else 5,
        pooling="max" if original else "avg",
    )
    return reference.kept(scores, quotas(name, scores, n, b, layer, layers, heads, shape), LENGTH, WINDOW)


def quotas(name, scores, n, b, layer, layers, heads, shape):
    if name == "adakv_original":
        return reference.adakv(scores, b, 0.5, False)
    if name.startswith("pyramidkv"):
        rule = reference.pyramidkv_released if name.endswith("released") else reference.pyramidkv
        return [rule(n, b, layers)[layer]] * heads
    if name.startswith("adakv"):
        return (reference.adakv_released if name.endswith("released") else reference.adakv)(scores, b)
    visual = reference.grouped(visual_scores(shape).tolist(), heads)
    if name == "sparsemm":
        return reference.sparsemm(n, b, visual)[layer]
    if name == "sparsemm_released":
        return [n] * heads if b > n else reference.sparsemm_dropped(n, b, visual)[layer]
    if name == "sparsemm_layer_mean":
        means = [[sum(row) / heads] * heads for row in visual]
        return reference.sparsemm(n, b, means)[layer]
    if name in ("random", "sparsemm_shuffled"):
        method = METHODS[name](b + WINDOW, WINDOW, shape)
        assert isinstance(method, HeadScored)
        drawn = [list(map(float, row)) for row in method.kv_head_scores(shape)]
        return reference.sparsemm(n, b, reference.grouped(drawn, heads))[layer]
    return reference.snapkv(n, b, heads)


@everything
@both_shapes
@pytest.mark.parametrize("budget", [WINDOW, 20, 0.4, LENGTH - PADDING, LENGTH])
def test_a_row_keeps_what_it_keeps_alone(name, shape, budget):
    method = METHODS[name](budget, WINDOW, shape)
    query, key = prompt(shape, batch=2)
    valid = left_padded()
    together = select(method, query, key, layer=1, shape=shape, valid=valid)
    for row, padding in enumerate([0, PADDING]):
        own_query, own_key = query[row : row + 1, :, padding:], key[row : row + 1, :, padding:]
        alone = select(method, own_query, own_key, layer=1, shape=shape)[0]
        for indices, own in zip(together[row], alone, strict=True):
            assert indices.tolist() == (own + padding).tolist()


@everything
@both_shapes
def test_budget_at_or_above_the_prompt_keeps_all(name, shape):
    query, key = prompt(shape, batch=2)
    valid = left_padded()
    above = kept_mask(METHODS[name](LENGTH + 1, WINDOW, shape), query, key, layer=0, shape=shape, valid=valid)
    assert torch.equal(above, valid[:, None].expand_as(above))
    at = kept_mask(METHODS[name](LENGTH, WINDOW, shape), query, key, layer=0, shape=shape, valid=valid)
    row = at if name not in EVICTS_AT_THE_PROMPT else at[1:]
    assert torch.equal(row, valid[-row.shape[0] :, None].expand_as(row))


@everything
def test_the_window_is_kept_and_padding_never(name):
    shape = SHAPES["gqa"]
    query, key = prompt(shape, batch=2)
    valid = left_padded()
    kept = kept_mask(METHODS[name](12, WINDOW, shape), query, key, layer=2, shape=shape, valid=valid)
    assert kept[..., -WINDOW:].all()
    assert not kept[1, :, :PADDING].any()


def scores_keys(method: KVMethod) -> bool:
    """Whether a method has scores of its own, which must be numbers."""
    return type(method).token_scores is not KVMethod.token_scores


@everything
def test_as_many_are_marked_as_counted_where_keys_are_no_numbers(name):
    shape = SHAPES["gqa"]
    method = METHODS[name](12, WINDOW, shape)
    query, key = prompt(shape, batch=2)
    sound, _ = kept_and_counts(method, query, key, layer=1, shape=shape)
    key[0] = torch.nan
    if method.evicts and method.token_scores(query, key, None, None).isnan().any() and scores_keys(method):
        with pytest.raises(ValueError, match="are NaN, so nothing can be chosen by them"):
            kept_and_counts(method, query, key, layer=1, shape=shape)
        return
    kept, counts = kept_and_counts(method, query, key, layer=1, shape=shape)
    assert torch.equal(kept.sum(-1), counts)  # what is stored lies by the counts: the other row would move
    assert torch.equal(kept[1], sound[1])


@everything
@pytest.mark.parametrize("length", [1, WINDOW - 1, WINDOW, WINDOW + 1])
def test_short_prompts_are_kept_whole(name, length):
    """Alone, and as a padded row beside a longer prompt."""
    shape = SHAPES["gqa"]
    method = METHODS[name](12, WINDOW, shape)
    query, key = prompt(shape, length=length)
    assert kept_mask(method, query, key, layer=0, shape=shape).all()
    valid = left_padded(padding=LENGTH - length)
    query, key = prompt(shape, batch=2)
    kept = kept_mask(method, query, key, layer=0, shape=shape, valid=valid)
    assert torch.equal(kept[1], valid[1].expand_as(kept[1]))


def test_lists_are_the_mask():
    shape = SHAPES["gqa"]
    query, key = prompt(shape, batch=2)
    valid = left_padded()
    method = METHODS["sparsemm"](16, WINDOW, shape)
    kept = kept_mask(method, query, key, layer=0, shape=shape, valid=valid)
    lists = select(method, query, key, layer=0, shape=shape, valid=valid)
    assert [[head.tolist() for head in row] for row in lists] == [
        [head.nonzero()[:, 0].tolist() for head in row] for row in kept
    ]


def test_scaling_reaches_the_scores():
    shape = SHAPES["mha"]
    query, key = prompt(shape)
    kept = [
        kept_mask(SnapKV(14, window=WINDOW), query, key, layer=0, shape=shape, scaling=s)
        for s in (None, 8**-0.5, 3.0)
    ]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


def test_ties_go_to_the_earlier_token():
    scores = torch.tensor([[[9.0, 1.0, 2.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]])
    chosen = top_mask(scores, torch.tensor([[3, 2]]), torch.tensor([5]))
    assert chosen.nonzero()[:, 1:].tolist() == [[0, 1], [0, 2], [0, 3], [1, 1], [1, 2]]


def test_right_padding_is_refused():
    valid = left_padded().flip(-1)
    with pytest.raises(ValueError, match="padding must be on the left") as error:
        prompt_lengths(valid)
    assert "\n" not in str(error.value)
    shape = SHAPES["mha"]
    query, key = prompt(shape, batch=2)
    with pytest.raises(ValueError, match="padding must be on the left"):
        select(FullKV(), query, key, layer=0, shape=shape, valid=valid)


def test_unknown_layers_are_refused():
    shape = SHAPES["mha"]
    with pytest.raises(ValueError, match="layer 3 is not one of the 3 compressible layers"):
        select(SnapKV(20, window=WINDOW), *prompt(shape), layer=3, shape=shape)
