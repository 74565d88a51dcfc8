"""What is kept: KV methods, token scores and quotas. Needs only torch."""

from sparsemm.methods.base import KVMethod, ModelShape
from sparsemm.methods.fullkv import FullKV
from sparsemm.methods.select import kept_mask, prompt_lengths, select, top_mask
from sparsemm.methods.snapkv import SnapKV

__all__ = [
    "FullKV",
    "KVMethod",
    "ModelShape",
    "SnapKV",
    "kept_mask",
    "prompt_lengths",
    "select",
    "top_mask",
]
