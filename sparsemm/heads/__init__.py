"""Visual heads: which query heads look at the text they read (SparseMM, arXiv 2506.05344)."""

from sparsemm.heads.scores import HeadScores

__all__ = ["HeadScores"]
