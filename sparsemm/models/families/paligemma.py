"""PaliGemma: the image stretched to one square of patches."""

from __future__ import annotations

from sparsemm.models.view import Picture, View, whole


def views(picture: Picture) -> list[View]:
    """One view; tokens row by row."""
    vision = picture.config.vision_config
    return [whole(picture, vision.image_size, vision.patch_size)]
