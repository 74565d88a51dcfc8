"""Model families: where an image's pixels sit among the prompt tokens."""

from sparsemm.models.regions import box_tokens, supported

__all__ = ["box_tokens", "supported"]
