"""InternVL, Idefics3, SmolVLM and Gemma3: an image in square tiles and once as a whole, patches pooled."""

from typing import Any

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tests.families.vocabulary import IMAGE, TEXT, VISION, build_tokenizer, chat_template, number

SIDE: dict[str, Any] = {"height": 16, "width": 16}
PATCHES: dict[str, Any] = {"image_size": 16, "patch_size": 4}


def internvl() -> tuple[PreTrainedModel, Any]:
    """Tiles of 2 x 2 tokens, up to four and a thumbnail."""
    config = InternVLConfig(
        text_config=Qwen2Config(**TEXT).to_dict(),
        vision_config=VISION | PATCHES,
        image_token_id=number(IMAGE),
        image_seq_length=4,
    )
    tokenizer = build_tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token=IMAGE
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=SIDE, min_patches=1, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=SIDE),
        image_seq_length=4,
        chat_template=chat_template(),
    )
    return InternVLForConditionalGeneration(config), processor


def idefics3() -> tuple[PreTrainedModel, Any]:
    """Tiles of 2 x 2 tokens, each with its row and column, then the whole image."""
    config = Idefics3Config(
        text_config=LlamaConfig(**TEXT).to_dict(),
        vision_config=VISION | PATCHES,
        image_token_id=number(IMAGE),
        scale_factor=2,
    )
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(
            size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
        ),
        tokenizer=build_tokenizer(),
        image_seq_len=4,
        chat_template=chat_template(),
    )
    return Idefics3ForConditionalGeneration(config), processor


def smolvlm() -> tuple[PreTrainedModel, Any]:
    """As `idefics3`, with video."""
    config = SmolVLMConfig(
        text_config=LlamaConfig(**TEXT).to_dict(),
        vision_config=VISION | PATCHES,
        image_token_id=number(IMAGE),
        scale_factor=2,
    )
    sizes: dict[str, Any] = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**sizes),
        tokenizer=build_tokenizer(),
        video_processor=SmolVLMVideoProcessor(**sizes),
        image_seq_len=4,
        chat_template=chat_template(),
    )
    return SmolVLMForConditionalGeneration(config), processor


def gemma3() -> tuple[PreTrainedModel, Any]:
    """Four pooled tokens a view; two full layers of four; a scaling that is not head_dim ** -0.5."""
    layers = ["sliding_attention", "full_attention"] * 2
    text = Gemma3TextConfig(
        **TEXT | {"num_hidden_layers": 4},
        head_dim=8,
        layer_types=layers,
        sliding_window=12,
        query_pre_attn_scalar=2,
        tie_word_embeddings=False,  # tied and random, it would repeat its last token for ever
    )
    config = Gemma3Config(
        text_config=text.to_dict(),
        vision_config=SiglipVisionConfig(**VISION, **PATCHES, vision_use_head=False).to_dict(),
        mm_tokens_per_image=4,
        boi_token_index=number("<boi>"),
        eoi_token_index=number("<eoi>"),
        image_token_index=number(IMAGE),
        tie_word_embeddings=False,
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(
            size=SIDE,
            do_pan_and_scan=True,
            pan_and_scan_min_crop_size=8,
            pan_and_scan_max_num_crops=4,
            pan_and_scan_min_ratio_to_activate=1.2,
        ),
        tokenizer=build_tokenizer(boi_token="<boi>", eoi_token="<eoi>"),
        image_seq_length=4,
        chat_template=chat_template("<boi>"),
    )
    return Gemma3ForConditionalGeneration(config), processor
