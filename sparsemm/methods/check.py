"""The rules that every method keeps, tried on one: a method of one's own, in its tests or by the doctor."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparsemm.methods.base import KVMethod, ModelShape
from sparsemm.methods.select import kept_mask
from sparsemm.methods.select_many import kept_masks

SHAPE = ModelShape(num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=8)


def check_method(method: KVMethod, shape: ModelShape = SHAPE) -> None:
    """Try the rules of every method on drawn prompts: alone, left-padded in a batch, and short.

    Parameters
    ----------
    method
        With a budget that leaves room to choose: it evicts from a prompt of twice as many tokens.
    shape
        Of the model. A method with head scores wants its own.

    Raises
    ------
    ValueError
        One line: the first rule that is broken. What the method itself refuses comes as it is.
    """
    for layer in range(shape.num_hidden_layers):
        for broken in _broken(method, layer, shape):
            raise ValueError(f"{method.name} breaks a rule in layer {layer}: {broken}")


def _broken(method: KVMethod, layer: int, shape: ModelShape) -> Iterator[str]:
    """Name the rules that a method breaks in one layer."""
    window = method.window
    length = 2 * max(method.budget_tokens(64), window + 8)
    padding = length // 3
    query, key = _prompt(shape, length, seed=layer)
    valid = torch.ones(2, length, dtype=torch.bool)
    valid[1, :padding] = False
    key[1, :, :padding], query[1, :, :padding] = 1e4, -1e4  # nobody may look at padding

    def kept(rows: slice, start: int = 0, mask: Tensor | None = None) -> Tensor:
        one = query[rows, :, start:], key[rows, :, start:]
        return kept_mask(method, *one, layer=layer, shape=shape, valid=mask)

    together = kept(slice(None), mask=valid)
    if not together[..., length - window :].all():
        yield "the window is not kept"
    if together[1, :, :padding].any():
        yield "padding is kept"
    if not torch.equal(together, kept(slice(None), mask=valid)):
        yield "the same prompt is not always answered alike (a method has no state)"
    for row, start in ((0, 0), (1, padding)):
        if not torch.equal(together[row, :, start:], kept(slice(row, row + 1), start)[0]):
            yield f"a row with {start} tokens of padding keeps other entries than alone"
    alike = kept_masks([method, method], query, key, layer=layer, shape=shape, valid=valid)
    if not torch.equal(alike, together.expand_as(alike)):
        yield "a fan-out would keep other entries than real eviction"
    if not torch.equal(together, kept_mask(method, query[:, :, -max(window, 1) :], key, layer=layer,
                                           shape=shape, valid=valid)):  # fmt: skip
        yield "it looks at queries before the window, which a prompt in chunks no longer has"
    if method.evicts and bool(together.sum() == valid.sum() * together.shape[1]):
        yield f"nothing is evicted from {length} tokens"
    for short in {1, window, min(window + 1, method.budget_tokens(window + 1))} - {0}:
        if not kept(slice(0, 1), length - short).all():
            yield f"a prompt of {short} tokens, which fits the budget, is not kept whole"


def _prompt(shape: ModelShape, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Queries [2, Hq, L, D] and keys [2, Hkv, L, D] of two rows."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((shape.num_attention_heads, 2.0), (shape.num_key_value_heads, 1.0))
    query, key = (
        scale * torch.randn(2, heads, length, shape.head_dim, generator=generator) for heads, scale in sizes
    )
    return query, key
