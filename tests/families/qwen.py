"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: images of their own shape, a grid of merged patches, M-RoPE."""

from typing import Any

from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.families.vocabulary import (
    IMAGE,
    TEXT,
    VIDEO,
    VISION_END,
    VISION_START,
    build_tokenizer,
    chat_template,
    number,
)

ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]}
TOKENS: dict[str, Any] = {
    "image_token_id": number(IMAGE),
    "video_token_id": number(VIDEO),
    "vision_start_token_id": number(VISION_START),
    "vision_end_token_id": number(VISION_END),
}


def _processor(kind: Any, video: Any, patch: int) -> Any:
    pixels = {"shortest_edge": (2 * patch) ** 2, "longest_edge": (16 * patch) ** 2}
    patches: dict[str, Any] = {"patch_size": patch, "merge_size": 2, "size": pixels}
    tokenizer = build_tokenizer(vision_start_token=VISION_START, vision_end_token=VISION_END)
    return kind(
        image_processor=Qwen2VLImageProcessor(**patches),
        tokenizer=tokenizer,
        video_processor=video(**patches),
        chat_template=chat_template(*(f"{VISION_START}{token}{VISION_END}" for token in (IMAGE, VIDEO))),
    )


def qwen2_vl(patch: int = 4) -> tuple[PreTrainedModel, Any]:
    """Patches of 4 x 4 pixels, 2 x 2 of them a token."""
    config = Qwen2VLConfig(
        text_config=TEXT | {"rope_parameters": ROPE},
        vision_config={
            **{"depth": 2, "embed_dim": 16, "hidden_size": TEXT["hidden_size"], "num_heads": 2},
            **{"patch_size": patch, "spatial_merge_size": 2, "initializer_range": 0.2},
        },
        **TOKENS,
    )
    return Qwen2VLForConditionalGeneration(config), _processor(Qwen2VLProcessor, Qwen2VLVideoProcessor, patch)


def qwen2_5_vl(patch: int = 4) -> tuple[PreTrainedModel, Any]:
    """As `qwen2_vl`, its tower's first layer in windows of 2 x 2 tokens, which reorder the patches."""
    config = Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": ROPE},
        vision_config={
            **{"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2},
            **{"out_hidden_size": TEXT["hidden_size"], "patch_size": patch, "spatial_merge_size": 2},
            **{"window_size": 4 * patch, "fullatt_block_indexes": [1], "initializer_range": 0.2},
        },
        **TOKENS,
    )
    return Qwen2_5_VLForConditionalGeneration(config), _processor(
        Qwen2_5_VLProcessor, Qwen2VLVideoProcessor, patch
    )


def qwen3_vl(patch: int = 4) -> tuple[PreTrainedModel, Any]:
    """As `qwen2_vl`, its tower's first layer also fed into the first layer of the text model."""
    config = Qwen3VLConfig(
        text_config=TEXT
        | {"head_dim": 8, "rope_parameters": ROPE | {"mrope_section": [2, 1, 1], "mrope_interleaved": True}},
        vision_config={
            **{"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2},
            **{"out_hidden_size": TEXT["hidden_size"], "patch_size": patch, "spatial_merge_size": 2},
            **{"num_position_embeddings": 16, "deepstack_visual_indexes": [0], "initializer_range": 0.2},
        },
        **TOKENS,
    )
    return Qwen3VLForConditionalGeneration(config), _processor(Qwen3VLProcessor, Qwen3VLVideoProcessor, patch)
