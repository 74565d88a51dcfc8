"""The entry point by which lmms-eval finds the model (group ``lmms_eval.models``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> list[ModelManifest]:
    """Return the models that this package adds to lmms-eval: one, ``sparsemm``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return [ModelManifest(model_id="sparsemm", chat_class_path="sparsemm.evaluation.model.SparseMMChat")]
