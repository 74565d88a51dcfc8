"""The embedded model's tokenizer: one token per character, instructions as single tokens, a chat template.

Instructions are single tokens so that a window of 8 prompt tokens sees the whole question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparsemm.documents.question import PHRASES as QUESTION_PHRASES
from sparsemm.documents.words import ALPHABET

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

OCR_PROMPT = "Provide all the OCR results of this image."
"""The paper's OCR instruction (arXiv 2506.05344); one token here."""

PHRASES = (OCR_PROMPT, *QUESTION_PHRASES)
"""Instructions and the fixed parts of questions: one token each."""

PAD, END, ASSISTANT = "<|endoftext|>", "<|im_end|>", "<|assistant|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
SPECIAL = (PAD, END, ASSISTANT, VISION_START, VISION_END, IMAGE, VIDEO)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' or 'image' in part or 'image_url' in part %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' or 'video' in part %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A character tokenizer; text outside the alphabet is dropped."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    characters = [*ALPHABET, " ", "\n", "?"]
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *characters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in PHRASES])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": IMAGE, "video_token": VIDEO},
        chat_template=CHAT_TEMPLATE,
    )
