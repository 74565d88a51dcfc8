"""LLaVA-1.5, LLaVA-NeXT on Llama and on Mistral, LLaVA-OneVision on Qwen2."""

from typing import Any

from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
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

SIDE: dict[str, Any] = {"height": 32, "width": 32}


def llava() -> tuple[PreTrainedModel, Any]:
    """CLIP, 4 x 4 patches and a class token; the image is scaled by its shorter edge and cropped."""
    config = LlavaConfig(
        text_config=LlamaConfig(**TEXT).to_dict(),
        vision_config=CLIPVisionConfig(**VISION, image_size=32, patch_size=8).to_dict(),
        image_token_index=number(IMAGE),
        image_seq_length=16,
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIDE),
        tokenizer=build_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template(),
    )
    return LlavaForConditionalGeneration(config), processor


def _llava_next(text: PreTrainedConfig) -> tuple[PreTrainedModel, Any]:
    tiles = [[32, 32], [32, 64], [64, 32]]
    config = LlavaNextConfig(
        text_config=text.to_dict(),
        vision_config=CLIPVisionConfig(**VISION, image_size=32, patch_size=8).to_dict(),
        image_token_index=number(IMAGE),
        image_grid_pinpoints=tiles,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=16,
    )
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": 32}, crop_size=SIDE, image_grid_pinpoints=tiles
        ),
        tokenizer=build_tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=chat_template(),
    )
    return LlavaNextForConditionalGeneration(config), processor


def llava_next() -> tuple[PreTrainedModel, Any]:
    """Tiles of 4 x 4 patches, one or two, behind the base view."""
    return _llava_next(LlamaConfig(**TEXT))


def llava_next_mistral() -> tuple[PreTrainedModel, Any]:
    """As `llava_next`, with Mistral's text model and, like its checkpoints, no sliding window."""
    return _llava_next(MistralConfig(**TEXT, sliding_window=None))


def llava_onevision() -> tuple[PreTrainedModel, Any]:
    """SigLIP tiles of 4 x 4 patches, in grids of up to 3 x 3; grids of more than two tiles are pooled."""
    tiles = [[16 * rows, 16 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
    side = {"height": 16, "width": 16}
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(**TEXT).to_dict(),
        vision_config=SiglipVisionConfig(
            **VISION, image_size=16, patch_size=4, vision_use_head=False
        ).to_dict(),
        image_token_index=number(IMAGE),
        video_token_index=number(VIDEO),
        image_grid_pinpoints=tiles,
        vision_aspect_ratio="anyres_max_2",
    )
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=tiles),
        tokenizer=build_tokenizer(),
        video_processor=LlavaOnevisionVideoProcessor(size=side),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
        chat_template=chat_template(),
    )
    return LlavaOnevisionForConditionalGeneration(config), processor
