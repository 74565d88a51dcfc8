"""Figures: one function each, data in, a matplotlib ``Figure`` out; `save` draws a whole results folder."""

from sparsemm.figures.ablation import mask_ablation
from sparsemm.figures.accuracy import accuracy_vs_budget
from sparsemm.figures.attention import attention_on_image
from sparsemm.figures.concentration import head_concentration
from sparsemm.figures.decode import decode_vs_context
from sparsemm.figures.differences import differences_vs_budget
from sparsemm.figures.heads import head_scores
from sparsemm.figures.save import save

__all__ = [
    "accuracy_vs_budget",
    "attention_on_image",
    "decode_vs_context",
    "differences_vs_budget",
    "head_concentration",
    "head_scores",
    "mask_ablation",
    "save",
]
