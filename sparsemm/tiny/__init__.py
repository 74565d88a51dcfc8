"""The embedded default: a small Qwen2-VL that reads pages, trained by this package, shipped with it."""

from pathlib import Path

from sparsemm.tiny.architecture import PRESETS, TinyShape, build, build_model
from sparsemm.tiny.vocabulary import OCR_PROMPT

CHECKPOINT = Path(__file__).parent / "checkpoint"
"""Folder of the embedded checkpoint; ``AutoModelForImageTextToText.from_pretrained`` opens it offline."""

__all__ = ["CHECKPOINT", "OCR_PROMPT", "PRESETS", "TinyShape", "build", "build_model"]
