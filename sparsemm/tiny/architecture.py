"""The embedded model's shape: a real Qwen2-VL, small enough to train on two cores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig, Qwen2VLVisionConfig

from sparsemm.tiny.vocabulary import (
    CHAT_TEMPLATE,
    END,
    IMAGE,
    PAD,
    VIDEO,
    VISION_END,
    VISION_START,
    build_tokenizer,
)

PATCH, MERGE = 8, 2
"""Patch side in pixels, patches per token side: a visual token covers 16 x 16 pixels, two characters."""


@dataclass(frozen=True)
class TinyShape:
    """Sizes of a preset.

    ``num_attention_heads`` are query heads, ``vision_*`` the image tower's; checkpoints are written in the
    number format ``stored``.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vision_width: int
    vision_depth: int
    vision_heads: int
    stored: torch.dtype = torch.float32


PRESETS = {
    "tiny": TinyShape(192, 384, 8, 8, 4, vision_width=96, vision_depth=2, vision_heads=4),
    "small": TinyShape(
        288, 384, 12, 12, 4, vision_width=128, vision_depth=3, vision_heads=4, stored=torch.bfloat16
    ),
}
"""Layers x query / KV heads: ``tiny`` (for two CPU cores) 8 x 8 / 4, ``small`` (for a GPU) 12 x 12 / 4.

A head has 24 dimensions in both.
"""


def build_config(shape: TinyShape) -> Qwen2VLConfig:
    """The configuration of a preset.

    ``mrope_section`` of ones interleaves time, height and width over the rotary frequencies, and
    ``rope_theta`` is 100:
    with the stock sections the width axis would hardly rotate on pages of a dozen columns.
    """
    tokenizer = build_tokenizer()
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    head_dim = shape.hidden_size // shape.num_attention_heads
    ids = {name: vocabulary[name] for name in (PAD, END, IMAGE, VIDEO, VISION_START, VISION_END)}
    text = Qwen2VLTextConfig(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_key_value_heads,
        max_position_embeddings=4096,
        rms_norm_eps=1e-6,
        bos_token_id=ids[PAD],
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1] * (head_dim // 2)},
    )
    vision = Qwen2VLVisionConfig(
        depth=shape.vision_depth,
        embed_dim=shape.vision_width,
        hidden_size=shape.hidden_size,
        num_heads=shape.vision_heads,
        patch_size=PATCH,
        spatial_merge_size=MERGE,
    )
    return Qwen2VLConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
    )


def build_processor() -> Qwen2VLProcessor:
    """The processor: images whose sides are multiples of 16 pixels pass unresized."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    half = [0.5, 0.5, 0.5]
    side = PATCH * MERGE
    sizes = {"shortest_edge": 4 * side * side, "longest_edge": 1024 * side * side}
    options = {"patch_size": PATCH, "merge_size": MERGE, "image_mean": half, "image_std": half, "size": sizes}
    return Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(**options),
        tokenizer=build_tokenizer(),
        video_processor=Qwen2VLVideoProcessor(**options),
        chat_template=CHAT_TEMPLATE,
    )


def build_model(preset: str = "tiny", *, seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """A randomly initialised model of a preset, float32.

    Raises
    ------
    ValueError
        Unknown preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(build_config(PRESETS[preset]))
    text: Any = model.config.text_config
    model.generation_config.eos_token_id = text.eos_token_id
    model.generation_config.pad_token_id = text.pad_token_id
    return model.float()


def build(path: str | Path, *, preset: str = "tiny", seed: int = 0) -> None:
    """Write an untrained checkpoint (model, tokenizer, processor, chat template) to a folder."""
    build_model(preset, seed=seed).save_pretrained(path)
    build_processor().save_pretrained(path)
