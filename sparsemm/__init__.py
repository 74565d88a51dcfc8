"""sparsemm: which KV entries of a multimodal LLM to keep, head by head, and what that costs in accuracy.

Importing the package registers the attention ``"sparsemm"`` with transformers. Load a model's text
backbone with it and
pass a cache::

    import sparsemm
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(path, attn_implementation={"text_config": "sparsemm"})
    cache = sparsemm.RaggedCache(model.config, sparsemm.SnapKV(budget=256))
    model.generate(**inputs, past_key_values=cache)
    cache.stats()
"""

from typing import TYPE_CHECKING, Any

from sparsemm.cache import CacheStats, RaggedCache
from sparsemm.heads.scores import HeadScores
from sparsemm.methods import (
    AdaKV,
    FullKV,
    KVMethod,
    ModelShape,
    PyramidKV,
    RandomHeads,
    SnapKV,
    SparseMM,
    StreamingLLM,
    select,
)

if TYPE_CHECKING:
    from sparsemm.evaluation.tables import load_results

__all__ = [
    "AdaKV",
    "CacheStats",
    "FullKV",
    "HeadScores",
    "KVMethod",
    "ModelShape",
    "PyramidKV",
    "RaggedCache",
    "RandomHeads",
    "SnapKV",
    "SparseMM",
    "StreamingLLM",
    "load_results",
    "select",
]


def __getattr__(name: str) -> Any:
    """Import ``load_results`` when first asked for: it needs pandas, which a bare GPU machine may lack."""
    if name == "load_results":
        from sparsemm.evaluation.tables import load_results

        return load_results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
