"""sparsemm: which KV entries of a multimodal LLM to keep, head by head, and what that costs in accuracy.

Importing the package, before transformers or after it, makes the attention ``"sparsemm"`` known there. Load
a model's text backbone with it and pass a cache::

    import sparsemm
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(path, attn_implementation={"text_config": "sparsemm"})
    cache = sparsemm.RaggedCache(model.config, sparsemm.SnapKV(budget=256))
    model.generate(**inputs, past_key_values=cache)
    cache.stats()

What is named below is imported when it is first used: help, lists and tables of results need no torch.
"""

from typing import TYPE_CHECKING

from sparsemm.lazy import names_from
from sparsemm.registering import register_with_transformers

if TYPE_CHECKING:
    from sparsemm import cache as cache
    from sparsemm import heads as heads
    from sparsemm import methods as methods
    from sparsemm.cache import CacheStats, RaggedCache
    from sparsemm.evaluation.tables import load_results
    from sparsemm.heads import HeadScores
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
else:
    __getattr__, __dir__ = names_from(
        __name__,
        {
            **dict.fromkeys(("CacheStats", "RaggedCache", "cache"), "cache"),
            **dict.fromkeys(("HeadScores", "heads"), "heads"),
            **dict.fromkeys(("AdaKV", "FullKV", "KVMethod", "ModelShape", "PyramidKV"), "methods"),
            **dict.fromkeys(("RandomHeads", "SnapKV", "SparseMM", "StreamingLLM"), "methods"),
            **dict.fromkeys(("select", "methods"), "methods"),
            "load_results": "evaluation.tables",
        },
    )

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

register_with_transformers()
