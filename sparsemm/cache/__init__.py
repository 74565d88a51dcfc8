"""How it is kept: ragged per-head storage, the registered attention over it, decode backends.

Importing this package registers the attention with transformers under `ATTENTION_NAME`.
"""

from sparsemm.cache.attention import register
from sparsemm.cache.backbone import model_shape
from sparsemm.cache.fanout import Fanout, fan_out
from sparsemm.cache.layout import BACKENDS
from sparsemm.cache.ragged_cache import RaggedCache
from sparsemm.cache.stats import CacheStats
from sparsemm.cache.suitable import ATTENTION_NAME

__all__ = [
    "ATTENTION_NAME",
    "BACKENDS",
    "CacheStats",
    "Fanout",
    "RaggedCache",
    "fan_out",
    "model_shape",
    "register",
]

register()
