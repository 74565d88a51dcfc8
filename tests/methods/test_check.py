"""The rules hold for every method, and a method that breaks one hears which."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sparsemm.methods import KVMethod, ModelShape, SnapKV, check_method, kept_mask, kept_masks
from sparsemm.methods.check import SHAPE
from tests.methods.cases import METHODS
from tests.methods.test_select import PADDING, SHAPES, WINDOW, left_padded, prompt

BUDGET = 20


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("budget", [BUDGET, 0.5])
def test_every_method_keeps_the_rules(name: str, budget: int | float) -> None:
    check_method(METHODS[name](budget, WINDOW, SHAPE))


@dataclass(frozen=True, eq=False)
class Norms(SnapKV):
    """Scores as people would write them: the negative norm of a key, whatever stands at padding."""

    def token_scores(self, query: Tensor, key: Tensor, scaling: float | None, valid: Tensor | None) -> Tensor:
        return -key.norm(dim=-1)[..., : max(key.shape[2] - self.window, 0)]


class Infinite(Norms):
    """Some tokens never, some always."""

    def token_scores(self, query: Tensor, key: Tensor, scaling: float | None, valid: Tensor | None) -> Tensor:
        scores = super().token_scores(query, key, scaling, valid)
        low, high = scores < -3.5, scores > -2.0
        return scores.masked_fill(low, -torch.inf).masked_fill(high, torch.inf)


class NotANumber(Norms):
    def token_scores(self, query: Tensor, key: Tensor, scaling: float | None, valid: Tensor | None) -> Tensor:
        return super().token_scores(query, key, scaling, valid).sqrt()


class Misshapen(Norms):
    def token_scores(self, query: Tensor, key: Tensor, scaling: float | None, valid: Tensor | None) -> Tensor:
        return -key.norm(dim=-1)


class Greedy(SnapKV):
    def quotas(self, scores: Tensor, lengths: Tensor, layer: int, shape: ModelShape) -> Tensor:
        return super().quotas(scores, lengths, layer, shape) + lengths[:, None]


class Fractional(SnapKV):
    def quotas(self, scores: Tensor, lengths: Tensor, layer: int, shape: ModelShape) -> Tensor:
        return super().quotas(scores, lengths, layer, shape) / 2


class Batchwise(Norms):
    """Compares rows with each other."""

    def token_scores(self, query: Tensor, key: Tensor, scaling: float | None, valid: Tensor | None) -> Tensor:
        scores = super().token_scores(query, key, scaling, valid)
        return (scores - scores.mean(dim=0)).abs()


class Whole(Norms):
    """Looks at all queries of the prompt."""

    def token_scores(self, query: Tensor, key: Tensor, scaling: float | None, valid: Tensor | None) -> Tensor:
        seen = query if valid is None else query * valid[:, None, -query.shape[2] :, None]
        mean = seen.sum(dim=2, keepdim=True).unflatten(1, (key.shape[1], -1)).mean(dim=2)
        return (key * mean).sum(-1)[..., : max(key.shape[2] - self.window, 0)]


class Forgetful(SnapKV):
    """Says that prompts are kept whole which it cuts."""

    def keeps_all(self, prompt_length: int) -> bool:
        return False

    def quotas(self, scores: Tensor, lengths: Tensor, layer: int, shape: ModelShape) -> Tensor:
        return super().quotas(scores, lengths, layer, shape) // 2


@pytest.mark.parametrize("method", [Norms, Infinite])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_any_numbers_may_be_scores(method: type[KVMethod], shape: ModelShape) -> None:
    """Also below what padding is marked with: its row keeps as many entries as alone."""
    one = method(BUDGET, window=WINDOW)
    check_method(one, shape)
    query, key = prompt(shape, batch=2)
    key[-1, :, :PADDING] = 0.0  # would score best
    valid = left_padded()
    kept = kept_mask(one, query, key, layer=0, shape=shape, valid=valid)
    assert bool((kept.sum(-1) == BUDGET).all())
    assert torch.equal(kept_masks([one], query, key, layer=0, shape=shape, valid=valid)[0], kept)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (NotANumber, "token_scores are NaN"),
        (Misshapen, r"token_scores are \[2, 2, 56\], expected \[2, 2, 48\]"),
        (Greedy, "quotas .* are not between 0 and the"),
        (Fractional, "quotas are torch.float32"),
        (Batchwise, "keeps other entries than alone"),
        (Whole, "looks at queries before the window"),
        (Forgetful, "fits the budget, is not kept whole"),
    ],
)
def test_a_broken_rule_is_named(method: type[KVMethod], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_method(method(BUDGET if method is not Misshapen else 28, window=WINDOW))
    assert "\n" not in str(caught.value)
