"""The embedded default: a small Qwen2-VL that reads pages, trained by this package, shipped with it."""

from pathlib import Path
from typing import TYPE_CHECKING

from sparsemm.lazy import names_from
from sparsemm.tiny.vocabulary import OCR_PROMPT

if TYPE_CHECKING:
    from sparsemm.tiny.architecture import PRESETS, TinyShape, build, build_model
else:
    __getattr__, __dir__ = names_from(
        __name__, dict.fromkeys(("PRESETS", "TinyShape", "build", "build_model"), "architecture")
    )

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Folder of the embedded checkpoint; ``AutoModelForImageTextToText.from_pretrained`` opens it offline."""

__all__ = ["CHECKPOINT", "OCR_PROMPT", "PRESETS", "TinyShape", "build", "build_model"]
