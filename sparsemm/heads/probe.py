"""The probe: where each head looks at the step that produces each token.

It sits in a registered attention function, so that nothing is patched, no attention matrix is returned,
any batch size works, and memory beyond the model is one row of scores per head. (In half precision also one
layer's keys in float32: rounded logits would tie.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsemm.cache.stock import is_compressible, register_attention, sdpa_attention_forward, stock_layers

ATTENTION = "sparsemm_probe"


Note = Callable[[int, Tensor, Tensor, Tensor | None, float | None], Tensor]
"""What is noted of a layer, from its number among the full-attention layers, the last query [B, Hq, D], all
keys [B, Hkv, K, D], the attention mask [B, 1, L, K] or None, and the scaling of the logits."""


@dataclass
class Record:
    """What a probe notes of which layers, and per step the notes of each of them."""

    layers: list[int]
    note: Note
    steps: list[list[Tensor]] = field(default_factory=list)


_record: ContextVar[Record | None] = ContextVar("sparsemm_probe", default=None)


def _probe_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """SDPA; if a probe is open, note where the last query looks.

    query [B, Hq, L, D], key and value [B, Hkv, K, D].
    """
    record = _record.get()
    if record is not None and module.layer_idx in record.layers:
        if module.layer_idx == record.layers[0]:
            record.steps.append([])
        number = len(record.steps[-1])
        record.steps[-1].append(record.note(number, query[:, :, -1], key, attention_mask, scaling))
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def last_logits(query: Tensor, key: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Unscaled attention logits of the last query, float32 [B, Hq, K]; ``-inf`` where it may not look.

    query [B, Hq, D], key [B, Hkv, K, D], attention_mask [B, 1, L, K] (its last query counts).
    """
    batch, heads, _ = query.shape
    grouped = query.reshape(batch, key.shape[1], heads // key.shape[1], -1)
    logits = torch.matmul(grouped.float(), key.float().transpose(-1, -2)).view(batch, heads, -1)
    if attention_mask is not None:
        last = attention_mask[:, :, -1, : key.shape[2]]
        hidden = ~last if last.dtype == torch.bool else last < -1
        logits = logits.masked_fill(hidden, -torch.inf)
    return logits


def most_attended(
    layer: int, query: Tensor, key: Tensor, attention_mask: Tensor | None, scaling: float | None
) -> Tensor:
    """Index of the key with the largest logit, [B, Hq]; a `Note`.

    Softmax, scaling and soft-capping are monotone: the logits' arg-max is the weights'.
    """
    return last_logits(query, key, attention_mask).argmax(-1)


register_attention(ATTENTION, _probe_attention)


@contextmanager
def probe(model: PreTrainedModel, note: Note = most_attended) -> Iterator[list[list[Tensor]]]:
    """Record while the block runs.

    Yields
    ------
    list over steps of list over layers of Tensor
        Step t holds what was noted of each full-attention layer at the step producing generated token t. Step
        0 is the prefill. By default [B, query heads]: the position (padding counted) that each head attended
        to most.
    """
    text = model.config.get_text_config()
    before = text._attn_implementation
    model.set_attn_implementation({"text_config": ATTENTION})
    full = [index for index, layer in enumerate(stock_layers(text)) if is_compressible(layer)]
    record = Record(full, note)
    token = _record.set(record)
    try:
        yield record.steps
    finally:
        _record.reset(token)
        model.set_attn_implementation({"text_config": before})
