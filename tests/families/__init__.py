"""Tiny random-weight models of real families: real config classes, processors and chat templates, offline.

A new family is one builder in `FAMILIES`. All share one character tokenizer. Row i of a batch has its own
image size, colours and text, so that a batch of two is left-padded.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    BatchFeature,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.video_utils import VideoMetadata

import sparsemm.cache  # noqa: F401  (registers the attention)
from tests.families import llava, paligemma, qwen, tiled
from tests.families.vocabulary import LETTERS, PAD, SPECIAL, TEXT, build_tokenizer, chat_template


def _text_only(kind: Any, config: Any) -> tuple[PreTrainedModel, Any]:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = chat_template()
    return kind(config(**TEXT)), tokenizer


FAMILIES: dict[str, Callable[[], tuple[PreTrainedModel, Any]]] = {
    "llava": llava.llava,
    "llava_next": llava.llava_next,
    "llava_next_mistral": llava.llava_next_mistral,
    "llava_onevision": llava.llava_onevision,
    "qwen2_vl": qwen.qwen2_vl,
    "qwen2_5_vl": qwen.qwen2_5_vl,
    "qwen3_vl": qwen.qwen3_vl,
    "internvl": tiled.internvl,
    "idefics3": tiled.idefics3,
    "smolvlm": tiled.smolvlm,
    "gemma3": tiled.gemma3,
    "paligemma": paligemma.paligemma,
    "llama": lambda: _text_only(LlamaForCausalLM, LlamaConfig),
    "qwen2": lambda: _text_only(Qwen2ForCausalLM, Qwen2Config),
}
"""Family name -> builder of (model, processor)."""

GEOMETRIES: dict[str, Callable[[], tuple[PreTrainedModel, Any]]] = {
    "llava 1.5": partial(llava.llava, side=336, patch=14),
    "llava padded": partial(llava.llava, side=336, patch=14, padded=True),
    "llava 1.6": partial(
        llava.llava_next, side=336, patch=14, grids=((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
    ),
    "llava onevision": partial(llava.llava_onevision, side=384, patch=14, longest=6, most=9),
    "qwen2 vl": partial(qwen.qwen2_vl, patch=14),
    "qwen2.5 vl": partial(qwen.qwen2_5_vl, patch=14),
    "qwen3 vl": partial(qwen.qwen3_vl, patch=16),
    "internvl 3": partial(tiled.internvl, side=448, patch=14, most=12),
    "idefics 3": partial(tiled.idefics3, side=364, patch=14, longest=4 * 364),
    "idefics3 uneven": partial(tiled.idefics3, longest=40),  # not a multiple of its tiles
    "smolvlm 2.2b": partial(tiled.smolvlm, side=384, patch=14, scale=3, longest=4 * 384),
    "smolvlm 500m": partial(tiled.smolvlm, side=512, patch=16, scale=4, longest=4 * 512),
    "paligemma 3b": partial(paligemma.paligemma, side=224, patch=14),
    "gemma 3": partial(tiled.gemma3, side=896, patch=14, tokens=256),
}
"""Builders of small models that cut images into patches as checkpoints do; the first word is the family."""

TEXT_ONLY = ("llama", "qwen2")
VISUAL = tuple(name for name in FAMILIES if name not in TEXT_ONLY)
VIDEO = ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm")

NEEDS_IMAGE = ("paligemma",)

CANNOT_BE_CUT = ("paligemma",)
"""All tokens of the prompt see each other, so that it cannot come in chunks, with whatever cache."""

TWO = ("qwen2_vl", "llava_next")
"""For what does not depend on the family."""


@cache
def build(family: str, attention: str = "sparsemm") -> tuple[PreTrainedModel, Any]:
    """Build a family once: float32, the same weights every time, its text model with the given attention.

    The result is shared between tests: do not change it.
    """
    torch.manual_seed(0)
    model, processor = (FAMILIES | GEOMETRIES)[family]()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("mm_input_projection_weight"):  # Gemma3 begins with zeros
                parameter.normal_(std=0.2)
    nested = hasattr(model.config, "text_config")
    model.set_attn_implementation({"text_config": attention} if nested else attention)
    model.generation_config.pad_token_id = SPECIAL.index(PAD)
    model.generation_config.eos_token_id = None  # every row generates as long as asked
    return model.eval(), processor


def image(row: int) -> Image.Image:
    """The image of a batch row: its own size and colours."""
    height, width = ((32, 32), (24, 40), (40, 24), (32, 48))[row % 4]
    pixels = np.random.default_rng(row).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


def question(row: int, letters: int = 12) -> str:
    """The text of a batch row; every second row has half as many letters more."""
    count = letters + (letters // 2 if row % 2 else 0)
    return "".join(np.random.default_rng(100 + row).choice(list(LETTERS), count))


def prompt(family: str, *parts: str) -> str:
    """The text of one user message: its parts in order, of them "image" and "video" what they say."""
    content = [
        {"type": part} if part in ("image", "video") else {"type": "text", "text": part} for part in parts
    ]
    return build(family)[1].apply_chat_template([{"role": "user", "content": content}], tokenize=False)


def tokenized(
    family: str, texts: Sequence[str], images: Sequence[Sequence[Image.Image]] = (), **more: Any
) -> BatchFeature:
    """A left-padded batch; `images` are those of each row, in order."""
    if any(images):
        more["images"] = [list(row) for row in images]
    return build(family)[1](text=list(texts), padding=True, return_tensors="pt", **more)


def inputs(family: str, batch: int | Sequence[int] = 1, *, letters: int = 12) -> BatchFeature:
    """Prompts of the first `batch` rows, or of the rows given by number, left-padded to the longest.

    Each has an image before its text; a family without images has more text.
    """
    rows = range(batch) if isinstance(batch, int) else batch
    if family in TEXT_ONLY:
        return tokenized(family, [prompt(family, question(row, letters + 24)) for row in rows])
    texts = [prompt(family, "image", question(row, letters)) for row in rows]
    return tokenized(family, texts, [[image(row)] for row in rows])


def other_inputs(family: str, content: str) -> BatchFeature:
    """Two left-padded prompts of another content than one image.

    ``text``: none; ``images``: two images in the first row, one in the second; ``video``: four frames each.
    """
    rows = range(2)
    if content == "text":
        return tokenized(family, [prompt(family, question(row, 30)) for row in rows])
    if content == "images":
        first = prompt(family, "image", question(0), "image", question(2))
        texts = [first, prompt(family, "image", question(1, 20))]
        return tokenized(family, texts, [[image(0), image(3)], [image(1)]])
    frames = [np.random.default_rng(row).integers(0, 256, (4, 16, 24, 3), dtype=np.uint8) for row in rows]
    times = VideoMetadata(total_num_frames=4, fps=2.0, frames_indices=[*range(4)], duration=2.0)
    texts = [prompt(family, "video", question(row)) for row in rows]
    return tokenized(family, texts, videos=frames, do_sample_frames=False, video_metadata=[times] * 2)
