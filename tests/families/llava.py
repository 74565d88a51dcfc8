"""LLaVA-1.5, LLaVA-NeXT on Llama and on Mistral, LLaVA-OneVision on Qwen2."""

from collections.abc import Sequence
from typing import Any

from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests.families.vocabulary import IMAGE, TEXT, VIDEO, VISION, build_tokenizer, chat_template, number


def llava(side: int = 32, patch: int = 8, padded: bool = False) -> tuple[PreTrainedModel, Any]:
    """CLIP, 4 x 4 patches and a class token; the image is scaled by its shorter edge and cropped."""
    crop: Any = {"height": side, "width": side}
    images = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=crop)
    if padded:  # to a square instead
        images = LlavaImageProcessor(size=crop, do_pad=True, do_center_crop=False)
    config = LlavaConfig(
        text_config=LlamaConfig(**TEXT).to_dict(),
        vision_config=CLIPVisionConfig(**VISION, image_size=side, patch_size=patch).to_dict(),
        image_token_index=number(IMAGE),
        image_seq_length=(side // patch) ** 2,
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(),
    )
    return LlavaForConditionalGeneration(config), processor


def _llava_next(
    text: PreTrainedConfig,
    side: int = 32,
    patch: int = 8,
    grids: Sequence[tuple[int, int]] = ((1, 1), (1, 2), (2, 1)),
) -> tuple[PreTrainedModel, Any]:
    tiles = [[side * rows, side * columns] for rows, columns in grids]
    crop = {"height": side, "width": side}
    config = LlavaNextConfig(
        text_config=text.to_dict(),
        vision_config=CLIPVisionConfig(**VISION, image_size=side, patch_size=patch).to_dict(),
        image_token_index=number(IMAGE),
        image_grid_pinpoints=tiles,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=(side // patch) ** 2,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": side}, crop_size=crop, image_grid_pinpoints=tiles
        ),
        tokenizer=build_tokenizer(),
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=chat_template(),
    )
    return LlavaNextForConditionalGeneration(config), processor


def llava_next(**geometry: Any) -> tuple[PreTrainedModel, Any]:
    """Tiles of 4 x 4 patches, one or two, behind the base view."""
    return _llava_next(LlamaConfig(**TEXT), **geometry)


def llava_next_mistral() -> tuple[PreTrainedModel, Any]:
    """As `llava_next`, with Mistral's text model and, like its checkpoints, no sliding window."""
    return _llava_next(MistralConfig(**TEXT, sliding_window=None))


def llava_onevision(
    side: int = 16, patch: int = 4, longest: int = 3, most: int = 2
) -> tuple[PreTrainedModel, Any]:
    """SigLIP tiles of 4 x 4 patches, in grids of up to 3 x 3; grids of more than two tiles are pooled."""
    counts = range(1, longest + 1)
    tiles = [[side * rows, side * columns] for rows in counts for columns in counts]
    size = {"height": side, "width": side}
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(**TEXT).to_dict(),
        vision_config=SiglipVisionConfig(
            **VISION, image_size=side, patch_size=patch, vision_use_head=False
        ).to_dict(),
        image_token_index=number(IMAGE),
        video_token_index=number(VIDEO),
        image_grid_pinpoints=tiles,
        vision_aspect_ratio=f"anyres_max_{most}",
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=tiles),
        tokenizer=build_tokenizer(),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(side // patch) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=f"anyres_max_{most}",
        chat_template=chat_template(),
    )
    return LlavaOnevisionForConditionalGeneration(config), processor
