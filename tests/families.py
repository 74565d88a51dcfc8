"""Tiny random-weight models of real families, real processors, real images, built offline.

A new family is one builder in `FAMILIES`. All share one character tokenizer; a prompt has one image and a
text, and row i of a batch has its own image size, colours and text, so that a batch of two is left-padded.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models
from transformers import (
    BatchFeature,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig, Qwen2VLVisionConfig

import sparsemm.cache  # noqa: F401  (registers the attention)

PAD, END, IMAGE, VIDEO, VISION_START, VISION_END = (
    "<pad>",
    "</s>",
    "<image>",
    "<video>",
    "<vision_start>",
    "<vision_end>",
)
SPECIAL = (PAD, END, IMAGE, VIDEO, VISION_START, VISION_END)
LETTERS = "abcdefghijklmnopqrstuvwxyz ?"

# Sizes of every text model: two layers are enough to see one layer's eviction change the next; grouped heads.
TEXT = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Larger than usual, so that random heads attend to something and a wrong entry changes the logits.
    "initializer_range": 0.2,
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per letter; pads on the left."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *LETTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE, "video_token": VIDEO},
    )


def _ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {
        token: index for index, token in enumerate(SPECIAL) if tokenizer.convert_tokens_to_ids(token) == index
    }


def _qwen2_vl() -> tuple[PreTrainedModel, Any]:
    tokenizer = build_tokenizer()
    ids = _ids(tokenizer)
    text = Qwen2VLTextConfig(
        **TEXT,
        bos_token_id=ids[PAD],
        eos_token_id=ids[END],
        pad_token_id=ids[PAD],
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]},
    )
    vision = Qwen2VLVisionConfig(
        depth=1,
        embed_dim=16,
        hidden_size=TEXT["hidden_size"],
        num_heads=2,
        patch_size=4,
        spatial_merge_size=2,
    )
    config = Qwen2VLConfig(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        image_token_id=ids[IMAGE],
        video_token_id=ids[VIDEO],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
    )
    size = {"shortest_edge": 8 * 8, "longest_edge": 64 * 64}
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=4, merge_size=2, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=4, merge_size=2, size=size),
    )
    return Qwen2VLForConditionalGeneration(config), processor


def _llava_next() -> tuple[PreTrainedModel, Any]:
    tokenizer = build_tokenizer()
    ids = _ids(tokenizer)
    tiles = [[32, 32], [32, 64], [64, 32]]
    config = LlavaNextConfig(
        text_config=LlamaConfig(
            **TEXT, bos_token_id=ids[PAD], eos_token_id=ids[END], pad_token_id=ids[PAD]
        ).to_dict(),
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
        ).to_dict(),
        image_token_index=ids[IMAGE],
        image_grid_pinpoints=tiles,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=16,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=tiles
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
    )
    return LlavaNextForConditionalGeneration(config), processor


FAMILIES: dict[str, Callable[[], tuple[PreTrainedModel, Any]]] = {
    "qwen2_vl": _qwen2_vl,
    "llava_next": _llava_next,
}
"""Family name -> builder of (model, processor)."""


@cache
def build(family: str, attention: str = "sparsemm") -> tuple[PreTrainedModel, Any]:
    """Build a family once: float32, the same weights every time, its text model with the given attention.

    The result is shared between tests: do not change it.
    """
    torch.manual_seed(0)
    model, processor = FAMILIES[family]()
    model.set_attn_implementation(
        {"text_config": attention} if hasattr(model.config, "text_config") else attention
    )
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


def inputs(family: str, batch: int | Sequence[int] = 1, *, letters: int = 12) -> BatchFeature:
    """Prompts of the first `batch` rows, or of the rows given by number, left-padded to the longest."""
    rows = range(batch) if isinstance(batch, int) else batch
    _, processor = build(family)
    placeholder = f"{VISION_START}{IMAGE}{VISION_END}" if family.startswith("qwen") else IMAGE
    return processor(
        text=[placeholder + question(row, letters) for row in rows],
        images=[image(row) for row in rows],
        padding=True,
        return_tensors="pt",
    )
