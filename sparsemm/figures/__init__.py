"""Figures: one function each, data in, a matplotlib ``Figure`` out; `save` draws a whole results folder."""

from sparsemm.figures.ablation import mask_ablation
from sparsemm.figures.accuracy import accuracy_vs_budget, accuracy_vs_realised_budget
from sparsemm.figures.allocation import allocation_heatmap
from sparsemm.figures.attention import attention_on_image
from sparsemm.figures.concentration import head_concentration
from sparsemm.figures.decode import decode_vs_context
from sparsemm.figures.differences import differences_vs_budget
from sparsemm.figures.heads import head_scores
from sparsemm.figures.overall import overall_score, overall_scores, relative_scores
from sparsemm.figures.pareto import latencies, score_vs_latency, score_vs_memory
from sparsemm.figures.published import published_for, published_scores
from sparsemm.figures.reproduction import reproduction_delta, reproduction_deltas
from sparsemm.figures.save import save

__all__ = [
    "accuracy_vs_budget",
    "accuracy_vs_realised_budget",
    "allocation_heatmap",
    "attention_on_image",
    "decode_vs_context",
    "differences_vs_budget",
    "head_concentration",
    "head_scores",
    "latencies",
    "mask_ablation",
    "overall_score",
    "overall_scores",
    "published_for",
    "published_scores",
    "relative_scores",
    "reproduction_delta",
    "reproduction_deltas",
    "save",
    "score_vs_latency",
    "score_vs_memory",
]
