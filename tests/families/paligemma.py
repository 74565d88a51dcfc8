"""PaliGemma: one square of patches, and a prompt whose tokens all see each other."""

from typing import Any

from transformers import (
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from tests.families.vocabulary import (
    IMAGE,
    TEXT,
    VISION,
    VISION_START,
    build_tokenizer,
    chat_template,
    number,
)


def paligemma(side: int = 16, patch: int = 4) -> tuple[PreTrainedModel, Any]:
    """Four by four tokens."""
    vision: dict[str, Any] = VISION | {"projection_dim": TEXT["hidden_size"], "vision_use_head": False}
    config = PaliGemmaConfig(
        text_config=GemmaConfig(**TEXT, head_dim=8, tie_word_embeddings=False).to_dict(),
        vision_config=SiglipVisionConfig(**vision, image_size=side, patch_size=patch).to_dict(),
        image_token_index=number(IMAGE),
        projection_dim=TEXT["hidden_size"],
        tie_word_embeddings=False,
    )
    images = SiglipImageProcessor(size={"height": side, "width": side}, image_seq_length=(side // patch) ** 2)
    processor = PaliGemmaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(bos_token=VISION_START),
        chat_template=chat_template(),
    )
    return PaliGemmaForConditionalGeneration(config), processor
