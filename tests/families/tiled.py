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


def internvl(side: int = 16, patch: int = 4, most: int = 4) -> tuple[PreTrainedModel, Any]:
    """Tiles of 2 x 2 tokens, up to four and a thumbnail."""
    size, tokens = {"height": side, "width": side}, (side // patch // 2) ** 2
    config = InternVLConfig(
        text_config=Qwen2Config(**TEXT).to_dict(),
        vision_config=VISION | {"image_size": side, "patch_size": patch},
        image_token_id=number(IMAGE),
        image_seq_length=tokens,
    )
    tokenizer = build_tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token=IMAGE
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, min_patches=1, max_patches=most),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=tokens,
        chat_template=chat_template(),
    )
    return InternVLForConditionalGeneration(config), processor


def idefics3(
    side: int = 16, patch: int = 4, scale: int = 2, longest: int = 32
) -> tuple[PreTrainedModel, Any]:
    """Tiles of 2 x 2 tokens, each with its row and column, then the whole image."""
    config = Idefics3Config(
        text_config=LlamaConfig(**TEXT).to_dict(),
        vision_config=VISION | {"image_size": side, "patch_size": patch},
        image_token_id=number(IMAGE),
        scale_factor=scale,
    )
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(
            size={"longest_edge": longest}, max_image_size={"longest_edge": side}
        ),
        tokenizer=build_tokenizer(),
        image_seq_len=(side // patch // scale) ** 2,
        chat_template=chat_template(),
    )
    return Idefics3ForConditionalGeneration(config), processor


def smolvlm(side: int = 16, patch: int = 4, scale: int = 2, longest: int = 32) -> tuple[PreTrainedModel, Any]:
    """As `idefics3`, with video."""
    config = SmolVLMConfig(
        text_config=LlamaConfig(**TEXT).to_dict(),
        vision_config=VISION | {"image_size": side, "patch_size": patch},
        image_token_id=number(IMAGE),
        scale_factor=scale,
    )
    sizes: dict[str, Any] = {"size": {"longest_edge": longest}, "max_image_size": {"longest_edge": side}}
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**sizes),
        tokenizer=build_tokenizer(),
        video_processor=SmolVLMVideoProcessor(**sizes),
        image_seq_len=(side // patch // scale) ** 2,
        chat_template=chat_template(),
    )
    return SmolVLMForConditionalGeneration(config), processor


def gemma3(side: int = 16, patch: int = 4, tokens: int = 4) -> tuple[PreTrainedModel, Any]:
    """Four pooled tokens a view; two full layers of four; a scaling that is not head_dim ** -0.5."""
    sizes: dict[str, Any] = TEXT | {"num_hidden_layers": 4, "head_dim": 8, "query_pre_attn_scalar": 2}
    text = Gemma3TextConfig(
        **sizes,
        layer_types=["sliding_attention", "full_attention"] * 2,
        sliding_window=12,
        tie_word_embeddings=False,  # tied and random, it would repeat its last token for ever
    )
    config = Gemma3Config(
        text_config=text.to_dict(),
        vision_config=SiglipVisionConfig(
            **VISION, image_size=side, patch_size=patch, vision_use_head=False
        ).to_dict(),
        mm_tokens_per_image=tokens,
        boi_token_index=number("<boi>"),
        eoi_token_index=number("<eoi>"),
        image_token_index=number(IMAGE),
        tie_word_embeddings=False,
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": side, "width": side}),
        tokenizer=build_tokenizer(boi_token="<boi>", eoi_token="<eoi>"),
        image_seq_length=tokens,
        chat_template=chat_template("<boi>"),
    )
    return Gemma3ForConditionalGeneration(config), processor
