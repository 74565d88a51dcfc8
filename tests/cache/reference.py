"""A slow, obvious engine: full K/V for ever, and a mask of what `select` keeps, in eager attention."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.masking_utils import sdpa_mask

from sparsemm.cache.stock import cache_argument
from sparsemm.methods import KVMethod, ModelShape, select
from tests.families import build

NAME = "reference"


class Reference:
    """One prompt and its generation under a method.

    `removed` and `uniform` are heads whose output, or whose queries, are zero; `question` is how many of each
    row's last tokens come after compression.
    """

    def __init__(
        self,
        method: KVMethod,
        shape: ModelShape,
        removed: Tensor | None = None,
        uniform: Tensor | None = None,
        question: Sequence[int] | None = None,
    ) -> None:
        self.method, self.shape, self.removed, self.uniform = method, shape, removed, uniform
        self.question = question
        self.layers: dict[int, int] = {}  # layer_idx -> number among the compressible layers
        self.kept: dict[int, list[list[Tensor]]] = {}
        self.prompt = 0

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        batch, heads, tokens, _ = query.shape
        seen = key.shape[2]
        if attention_mask is None:
            past = seen - tokens
            attention_mask = torch.ones(batch, 1, tokens, seen, dtype=torch.bool)
            if module.is_causal:
                attention_mask = attention_mask.tril(past)
        allowed = attention_mask.repeat(1, heads, 1, 1)
        if getattr(module, "sliding_window", None) is None:
            index: int = module.layer_idx  # pyright: ignore[reportAssignmentType]
            layer = self.layers.setdefault(index, len(self.layers))
            if self.uniform is not None:
                query = query.clone()
                query[:, self.uniform[layer]] = 0.0
            if layer not in self.kept:
                self.prompt = seen
                valid = attention_mask[:, 0, -1]
                if self.question is None:
                    self.kept[layer] = self._select(layer, query, key, scaling, valid)
                else:
                    self.kept[layer] = []
                    for row, count in enumerate(self.question):
                        one = slice(row, row + 1)
                        context = (query[one, :, :-count], key[one, :, :-count], scaling, valid[one, :-count])
                        self.kept[layer] += self._select(layer, *context)
                        allowed[one, :, -count:, :-count] &= self._prompt_mask(layer, heads)[
                            row, ..., :-count
                        ]
            else:
                allowed[..., : self.prompt] &= self._prompt_mask(layer, heads)
        group = heads // key.shape[1]
        scores = query @ key.repeat_interleave(group, dim=1).transpose(2, 3) * scaling
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        output = scores.softmax(-1) @ value.repeat_interleave(group, dim=1)
        if self.removed is not None and getattr(module, "sliding_window", None) is None:
            output[:, self.removed[self.layers[module.layer_idx]]] = 0.0  # pyright: ignore[reportArgumentType]
        return output.transpose(1, 2).contiguous(), None

    def _select(
        self, layer: int, query: Tensor, key: Tensor, scaling: float, valid: Tensor
    ) -> list[list[Tensor]]:
        return select(self.method, query, key, layer=layer, shape=self.shape, scaling=scaling, valid=valid)

    def _prompt_mask(self, layer: int, heads: int) -> Tensor:
        """Which prompt tokens each query head still sees, bool [B, heads, 1, prompt]."""
        rows = self.kept[layer]
        mask = torch.zeros(len(rows), heads, 1, self.prompt, dtype=torch.bool)
        for row, per_head in enumerate(rows):
            if self.question is not None:
                mask[row, ..., -self.question[row] :] = True
            for head in range(heads):
                mask[row, head, 0, per_head[head * len(per_head) // heads]] = True
        return mask

    def counts(self) -> list[list[list[int]]]:
        """How many prompt tokens were kept: layers, rows, KV heads."""
        return [[[len(head) for head in row] for row in self.kept[layer]] for layer in sorted(self.kept)]

    def generate(self, family: str, inputs: Any, **options: Any) -> Any:
        """Generate with a family's model under this engine."""
        AttentionInterface.register(NAME, self.attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        model, _ = build(family, NAME)
        cache = DynamicCache(config=model.config)
        reorder = cache.reorder_cache

        def follow(rows: torch.LongTensor) -> None:
            """What was kept moves with its row: beams of a prompt may have read it differently.

            transformers 5.17 hands the tiles of an image to other beams than the first in another order.
            """
            reorder(rows)
            self.kept = {layer: [kept[row] for row in rows.tolist()] for layer, kept in self.kept.items()}

        cache.reorder_cache = follow  # pyright: ignore[reportAttributeAccessIssue]
        return generate(model, inputs, cache, **options)


def generate(model: PreTrainedModel, inputs: Any, cache: Any, tokens: int = 6, **options: Any) -> Any:
    """Greedy generation that returns sequences and the raw logits of every step."""
    return model.generate(  # pyright: ignore[reportCallIssue]
        **inputs,
        **cache_argument(cache),
        max_new_tokens=tokens,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **options,
    )


def assert_same(one: Any, other: Any, tolerance: float = 1e-5) -> None:
    """Compare two generations: equal new tokens, logits of every step within a tolerance (0: to the bit)."""
    count = len(one.logits)
    assert torch.equal(one.sequences[:, -count:], other.sequences[:, -count:])
    for mine, theirs in zip(one.logits, other.logits, strict=True):
        if tolerance:
            torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)
        else:
            assert torch.equal(mine, theirs)
