"""The probe: the position that each head attends to most, at the step that produces each token.

It sits in a registered attention function, so that nothing is patched, no attention matrix is returned,
any batch size works, and memory beyond the model is one row of scores per head. (In half precision also one
layer's keys in float32: rounded logits would tie.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sparsemm.cache.backbone import is_compressible, stock_layers

ATTENTION = "sparsemm_probe"


@dataclass
class Record:
    """What a probe notes: `layers` by number, and per step the positions of each of them."""

    layers: list[int]
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
    """SDPA; if a probe is open, note the key that the last query attends to most.

    query [B, Hq, L, D], key and value [B, Hkv, K, D].
    """
    record = _record.get()
    if record is not None and module.layer_idx in record.layers:
        if module.layer_idx == record.layers[0]:
            record.steps.append([])
        record.steps[-1].append(most_attended(query[:, :, -1], key, attention_mask))
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


def most_attended(query: Tensor, key: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Index of the key with the largest logit, [B, Hq].

    query [B, Hq, D], key [B, Hkv, K, D], attention_mask [B, 1, L, K] (its last query counts).

    Softmax, scaling and soft-capping are monotone: the logits' arg-max is the weights'.
    """
    batch, heads, _ = query.shape
    grouped = query.reshape(batch, key.shape[1], heads // key.shape[1], -1)
    logits = torch.matmul(grouped.float(), key.float().transpose(-1, -2)).view(batch, heads, -1)
    if attention_mask is not None:
        last = attention_mask[:, :, -1, : key.shape[2]]
        hidden = ~last if last.dtype == torch.bool else last < -1
        logits = logits.masked_fill(hidden, -torch.inf)
    return logits.argmax(-1)


AttentionInterface.register(ATTENTION, _probe_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@contextmanager
def probe(model: PreTrainedModel) -> Iterator[list[list[Tensor]]]:
    """Record while the block runs.

    Yields
    ------
    list over steps of list over layers of Tensor [B, query heads]
        Step t holds, per full-attention layer, the position (padding counted) that each head of the step
        producing generated token t attended to most. Step 0 is the prefill.
    """
    text = model.config.get_text_config()
    before = text._attn_implementation
    model.set_attn_implementation({"text_config": ATTENTION})
    full = [index for index, layer in enumerate(stock_layers(text)) if is_compressible(layer)]
    record = Record(full)
    token = _record.set(record)
    try:
        yield record.steps
    finally:
        _record.reset(token)
        model.set_attn_implementation({"text_config": before})
