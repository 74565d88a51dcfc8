"""What all families share: one character tokenizer, a chat template, and the sizes of their parts."""

from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

PAD, END, IMAGE, VIDEO = "<pad>", "</s>", "<image>", "<video>"
VISION_START, VISION_END = "<vision_start>", "<vision_end>"
SPECIAL = (PAD, END, IMAGE, VIDEO, VISION_START, VISION_END)
LETTERS = "abcdefghijklmnopqrstuvwxyz ?"

# What families write around images and video frames.
MARKS = (
    *("<img>", "</img>", "<boi>", "<eoi>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"),
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
SIGNS = "0123456789\n.,:;<>[]()'"
VOCABULARY = (*SPECIAL, *LETTERS, *MARKS, *SIGNS)

# Sizes of every text model: two layers are enough to see one layer's eviction change the next; grouped heads.
TEXT: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    # Larger than usual, so that random heads attend to something and a wrong entry changes the logits.
    "initializer_range": 0.2,
    "bos_token_id": SPECIAL.index(PAD),
    "eos_token_id": SPECIAL.index(END),
    "pad_token_id": SPECIAL.index(PAD),
}

VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}


def number(token: str) -> int:
    """Id of a token."""
    return VOCABULARY.index(token)


def build_tokenizer(**names: str) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character; pads on the left.

    `names` are further attributes that a family's processor looks for, such as ``boi_token="<boi>"``.
    """
    tokenizer = Tokenizer(
        models.BPE(vocab={token: index for index, token in enumerate(VOCABULARY)}, merges=[])
    )
    tokenizer.normalizer = normalizers.Lowercase()
    marks = [AddedToken(token, special=True, normalized=False) for token in (*SPECIAL, *MARKS)]
    tokenizer.add_special_tokens(marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        padding_side="left",
        extra_special_tokens={"image_token": IMAGE, "video_token": VIDEO} | names,
    )


def chat_template(image: str = IMAGE, video: str = VIDEO) -> str:
    """A template that writes a message's parts one after the other, without any words of its own."""
    return (
        "{% for message in messages %}{% for part in message['content'] %}"
        f"{{% if part['type'] == 'image' %}}{image}{{% elif part['type'] == 'video' %}}{video}"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
