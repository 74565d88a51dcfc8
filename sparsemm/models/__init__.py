"""Model families: checkpoints, and where an image's pixels sit among the prompt tokens."""

from sparsemm.models.image_tokens import Box, ImageTokens, Views, check_views, image_tokens

__all__ = ["Box", "ImageTokens", "Views", "check_views", "image_tokens"]
