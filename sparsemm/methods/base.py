"""What every KV method is: a budget, a way to score prompt tokens, a quota for every KV head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sparsemm.methods.scoring import window_attention


class ModelShape(NamedTuple):
    """The sizes of a text model that an allocation depends on.

    Attributes
    ----------
    num_hidden_layers : int
        *Compressible* layers (full attention); sliding layers are not counted.
    num_attention_heads : int
        Query heads of one layer.
    num_key_value_heads : int
        KV heads of one layer; divides `num_attention_heads`.
    head_dim : int
        Length of one key.
    """

    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise a one-line ``ValueError`` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_share(name: str, value: object) -> None:
    """Raise a one-line ``ValueError`` unless `value` is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


MOST = 2**31 - 1
"""No number of tokens, documents or rows, and no seed, may be larger: kernels and files hold no more."""


def check_count(name: str, value: object) -> None:
    """Raise a one-line ``ValueError`` unless `value` is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if value > MOST:
        raise ValueError(f"{name} must be at most {MOST}, got {value}")


def check_seed(value: object) -> None:
    """Raise a one-line ``ValueError`` unless `value` is an integer from 0 on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"seed must be an integer from 0 on, got {value!r}")
    if value > MOST:
        raise ValueError(f"seed must be at most {MOST}, got {value}")


@dataclass(frozen=True, eq=False)
class KVMethod(ABC):
    """Which KV entries of a prompt stay in the cache.

    The last `window` prompt tokens are always kept. Their queries score all other tokens (`token_scores`),
    the method says how many of those each KV head keeps (`quotas`), and each head keeps its best.
    A method has no state: the same inputs give the same answer, for every row of a batch on its own.

    Parameters
    ----------
    budget : int or float
        Mean number of KV entries kept per (layer, KV head), the window included. An int counts tokens and
        is at least `window`; a float in (0, 1] is a share of each row's own prompt (see `budget_tokens`).
    window : int, default 32
        Observation window W, in tokens: 32 in the released SnapKV, AdaKV and SparseMM code.
    kernel : int, default 5
        Width of the pooling over neighbouring tokens, odd; 1 is no pooling. The released SparseMM code runs
        every method with 5.
    pooling : {"avg", "max"}, default "avg"
        How neighbours are pooled.
    gqa : {"mean", "max"}, default "mean"
        How the query heads of one KV head are joined.

    Raises
    ------
    ValueError
        One line, for a value outside these ranges.
    """

    name: ClassVar[str]
    """Config name of the method's default form."""
    evicts: ClassVar[bool] = True
    """False for a method that keeps every token whatever its parameters."""

    budget: int | float
    _: KW_ONLY
    window: int = 32
    kernel: int = 5
    pooling: str = "avg"
    gqa: str = "mean"

    def __post_init__(self) -> None:
        check_count("window", self.window)
        check_count("kernel", self.kernel)
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")
        check_choice("pooling", self.pooling, ("avg", "max"))
        check_choice("gqa", self.gqa, ("mean", "max"))
        budget = self.budget
        if isinstance(budget, bool) or not isinstance(budget, (int, float)):
            raise ValueError(f"budget must be an int (tokens) or a float (share), got {budget!r}")
        if isinstance(budget, float):
            if not 0.0 < budget <= 1.0:
                raise ValueError(f"a float budget is a share of the prompt in (0, 1], got {budget!r}")
        elif budget > MOST:
            raise ValueError(f"budget must be at most {MOST}, got {budget}")
        elif budget < 1:
            raise ValueError(f"budget must be positive, got {budget}")
        elif budget < self.window:
            raise ValueError(
                f"budget {budget} is smaller than the window, {self.window}, which is always kept"
            )

    def budget_tokens(self, prompt_length: int) -> int:
        """Return the budget in tokens, window included, for a prompt of `prompt_length` valid tokens.

        A float budget is rounded to the nearest token (ties to even, Python's ``round``), and is never below
        the window.
        """
        if isinstance(self.budget, float):
            return max(self.window, round(self.budget * prompt_length))
        return self.budget

    def keeps_all(self, prompt_length: int) -> bool:
        """Say whether a prompt of `prompt_length` valid tokens is surely kept whole, without scoring it."""
        return prompt_length <= self.budget_tokens(prompt_length)

    def token_scores(self, query: Tensor, key: Tensor, scaling: float | None, valid: Tensor | None) -> Tensor:
        """Score each prompt token before the window for each KV head.

        Parameters
        ----------
        query : Tensor [B, Hq, L or W, D]
            Post-RoPE queries of the whole prompt, or of at least its last W tokens.
        key : Tensor [B, Hkv, L, D]
            Post-RoPE keys of the whole prompt.
        scaling : float or None
            Factor of the attention logits; None is ``D ** -0.5``.
        valid : BoolTensor [B, L] or None
            False marks padding, which must be on the left. None: no padding.

        Returns
        -------
        Tensor [B, Hkv, max(L - W, 0)], float32
            The highest stay: any numbers but NaN. What stands at padding is not looked at.
        """
        return window_attention(
            query,
            key,
            window=self.window,
            kernel=self.kernel,
            pooling=self.pooling,
            gqa=self.gqa,
            scaling=scaling,
            valid=valid,
        )

    def scoring(self) -> Hashable:
        """Name what token scores depend on: methods with equal values share them."""
        own = type(self).token_scores is not KVMethod.token_scores
        return id(self) if own else (self.window, self.kernel, self.pooling, self.gqa)

    @abstractmethod
    def quotas(self, scores: Tensor, lengths: Tensor, layer: int, shape: ModelShape) -> Tensor:
        """Say how many of the tokens before the window each KV head of one layer keeps.

        Parameters
        ----------
        scores : Tensor [B, Hkv, S]
            What `token_scores` gave; row i's valid columns are its last ``lengths[i]`` ones.
        lengths : LongTensor [B]
            n of each row: valid prompt tokens minus W, not below 0. Best on the CPU: then no method but AdaKV
            waits for the device.
        layer : int
            Index among the compressible layers.
        shape : ModelShape

        Returns
        -------
        LongTensor [B, Hkv] on the device of `lengths`
            Between 0 and n.
        """

    def nominal_quotas(self, prompt_length: int, shape: ModelShape) -> Tensor:
        """Return the quotas [layers, Hkv] before they are cut at what a prompt has: with n without bound.

        They are what the rule wants for each head, and differ from the quotas of a real prompt where a head
        is to keep more than there is: those are cut at n, and what is over goes to others or is lost.

        Parameters
        ----------
        prompt_length : int
            Valid prompt tokens: what a budget that is a share is a share of.
        shape : ModelShape

        Notes
        -----
        A method whose quotas depend on token scores overrides this: there are none here.
        """
        method, layers = replace(self, budget=self.budget_tokens(prompt_length)), shape.num_hidden_layers
        heads = shape.num_key_value_heads
        unbounded = torch.tensor([method.budget_tokens(0) * heads * layers])  # one head could keep all
        scores = torch.zeros(1, heads, 0)
        return torch.stack([method.quotas(scores, unbounded, layer, shape)[0] for layer in range(layers)])

    def evictable_budgets(self, lengths: Tensor) -> Tensor:
        """Return b = budget - W of each row [B], from ``lengths`` = n [B]: `budget_tokens` for batches."""
        if isinstance(self.budget, float):
            shares = torch.round(self.budget * (lengths + self.window).double()).long()
            return (shares - self.window).clamp(min=0)
        return torch.full_like(lengths, self.budget - self.window)


def check_layer(layer: int, shape: ModelShape) -> None:
    """Raise a one-line ``ValueError`` unless `layer` is one of the compressible layers."""
    if not 0 <= layer < shape.num_hidden_layers:
        raise ValueError(f"layer {layer} is not one of the {shape.num_hidden_layers} compressible layers")
