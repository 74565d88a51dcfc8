"""What is kept: KV methods, token scores and quotas. Needs only torch."""

from sparsemm.methods.adakv import AdaKV
from sparsemm.methods.base import KVMethod, ModelShape
from sparsemm.methods.check import check_method
from sparsemm.methods.fullkv import FullKV
from sparsemm.methods.pyramidkv import PyramidKV
from sparsemm.methods.random_heads import RandomHeads
from sparsemm.methods.select import kept_and_counts, kept_mask, prompt_lengths, select, top_mask
from sparsemm.methods.select_many import kept_masks
from sparsemm.methods.snapkv import SnapKV
from sparsemm.methods.sparsemm import SparseMM
from sparsemm.methods.streaming_llm import StreamingLLM

__all__ = [
    "AdaKV",
    "FullKV",
    "KVMethod",
    "ModelShape",
    "PyramidKV",
    "RandomHeads",
    "SnapKV",
    "SparseMM",
    "StreamingLLM",
    "check_method",
    "kept_and_counts",
    "kept_mask",
    "kept_masks",
    "prompt_lengths",
    "select",
    "top_mask",
]
