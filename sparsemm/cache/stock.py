"""All that the engine takes from transformers: when its API changes, this file does.

The other files of this room import it from here. Beside these names the engine stands on the methods that
transformers calls: of a cache (`RaggedCache`), of its layers (`RaggedLayer`, `SharedPromptLayer`), and of the
loop that takes ``generate``'s place in a fan-out.
"""

import inspect
from collections.abc import Callable
from typing import Any, cast

from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PretrainedConfig,
)
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticSlidingWindowLayer,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import create_causal_mask, sdpa_mask

__all__ = [
    "CACHE_ARGUMENT",
    "Cache",
    "CacheLayerMixin",
    "LogitsProcessor",
    "LogitsProcessorList",
    "PretrainedConfig",
    "cache_argument",
    "can_exchange_attention",
    "is_compressible",
    "register_attention",
    "sdpa_attention_forward",
    "sliding_windows",
    "static_form",
    "stock_layers",
]

CACHE_ARGUMENT = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
"""What ``forward`` and ``generate`` call the cache that they are given, and their outputs the one they used:
"cache" since transformers 5.24, "past_key_values" before. The older name warns until it goes in 5.40."""


def cache_argument(cache: Any) -> dict[str, Any]:
    """A cache as a keyword argument of ``forward`` or ``generate``, under the name that they know."""
    return {CACHE_ARGUMENT: cache}


def register_attention(name: str, attention: Callable[..., Any]) -> None:
    """Make an attention function known to transformers, with SDPA's masks; again changes nothing."""
    AttentionInterface.register(name, attention)
    # Without a mask function of the same name transformers silently passes no mask at all.
    AttentionMaskInterface.register(name, sdpa_mask)


def can_exchange_attention(config: PretrainedConfig) -> bool:
    """Say whether a text config's model asks transformers' registry for its attention; True if unknown."""
    for models in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING):
        if type(config) in models:
            model = models[type(config)]
            return cast(Any, model[0] if isinstance(model, tuple) else model)._can_set_attn_implementation()
    return True


def stock_layers(config: PretrainedConfig) -> list[CacheLayerMixin]:
    """Return new cache layers as transformers makes them for a text config; ValueError where it cannot."""
    try:
        return cast(list[CacheLayerMixin], DynamicCache(config=config).layers)
    except (AttributeError, KeyError) as error:
        raise ValueError(
            f"{config.model_type}: transformers makes no cache layers for it ({error})"
        ) from error


def is_compressible(layer: CacheLayerMixin) -> bool:
    """Say whether a stock cache layer holds full attention and nothing else."""
    return type(layer) is DynamicLayer


def static_form(layer: CacheLayerMixin) -> CacheLayerMixin:
    """The stock layer that holds a sliding window in tensors of one size; another layer as it is."""
    if type(layer) is DynamicSlidingWindowLayer:
        return StaticSlidingWindowLayer(layer.sliding_window, layer.sliding_window)
    return layer


def sliding_windows(config: PretrainedConfig) -> list[int]:
    """Window of each sliding layer of a text config, in tokens, in order."""
    return [
        layer.sliding_window for layer in stock_layers(config) if isinstance(layer, DynamicSlidingWindowLayer)
    ]
