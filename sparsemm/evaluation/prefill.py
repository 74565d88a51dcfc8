"""How a prompt is read, whatever the method: what compression may see of it, and which heads are off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sparsemm.cache.head_mask import MaskMode
from sparsemm.evaluation.tables import IMAGE_QUESTION, QUESTION_AFTER
from sparsemm.models.loading import Checkpoint
from sparsemm.models.prompts import question_tokens


@dataclass(frozen=True, eq=False)
class Prefill:
    """What cells must share to be decoded from one prefill.

    Attributes
    ----------
    prompt : str
        One of `sparsemm.evaluation.tables.PROMPTS`.
    masked : Tensor or None
        Query heads that are switched off, bool [layers, heads].
    mode : str
        How; see `sparsemm.cache.head_mask.HeadMask`.
    """

    prompt: str = IMAGE_QUESTION
    masked: Tensor | None = None
    mode: MaskMode = "remove"

    def options(self, checkpoint: Checkpoint, inputs: Any) -> dict[str, Any]:
        """Options of `RaggedCache` and `fan_out` for a batch of prompts, as `prepare` made it."""
        after = question_tokens(checkpoint, inputs) if self.prompt == QUESTION_AFTER else None
        return {"head_mask": self.masked, "head_mask_mode": self.mode, "question_tokens": after}
