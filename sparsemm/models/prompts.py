"""Conversations as a model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsemm.models.loading import Checkpoint


def asked(image: Any, question: str) -> list[dict[str, Any]]:
    """The conversation of one question about one image."""
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def images_of(conversation: Sequence[dict[str, Any]]) -> list[Any]:
    """The images of a conversation, in order.

    Raises
    ------
    ValueError
        If it holds a video or a sound, which are not supported.
    """
    parts = [part for message in conversation for part in message["content"]]
    for part in parts:
        if part["type"] not in ("text", "image"):
            raise ValueError(f"only text and images are supported, the task gave {part['type']}")
    return [part["image"] for part in parts if part["type"] == "image"]


def check_question_last(conversation: Sequence[dict[str, Any]]) -> None:
    """Check that a user's text comes behind all images, so that they can be compressed without it.

    Raises
    ------
    ValueError
        If there is no image, or text before the last one (few-shot examples, interleaved images).
    """
    parts = [part for message in conversation if message["role"] != "system" for part in message["content"]]
    images = [number for number, part in enumerate(parts) if part["type"] == "image"]
    if not images:
        raise ValueError("without an image there is nothing to compress before the question")
    for part in parts[: images[-1]]:
        if part["type"] == "text" and part["text"].strip():
            raise ValueError("text before the last image would be seen by its compression")


def question_tokens(checkpoint: Checkpoint, inputs: Any) -> list[int]:
    """Count the tokens of each prompt that come behind its images.

    The image's closing mark and other special tokens right behind it are the image's.

    Parameters
    ----------
    checkpoint : Checkpoint
    inputs : mapping
        As `prepare` made them.

    Raises
    ------
    ValueError
        If a prompt has no image token.
    """
    special = set(checkpoint.processor.tokenizer.all_special_ids)
    image = checkpoint.model.config.image_token_id
    counts = []
    for row, ids in enumerate(inputs["input_ids"].tolist()):
        if image not in ids:
            raise ValueError(f"row {row} has no image to compress before its question")
        end = len(ids) - ids[::-1].index(image)
        while end < len(ids) - 1 and ids[end] in special:
            end += 1
        counts.append(len(ids) - end)
    return counts


def prepare(checkpoint: Checkpoint, conversations: Sequence[list[dict[str, Any]]]) -> Any:
    """Tokenise conversations as one left-padded batch with their images, on the model's device.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its image settings are heeded.
    conversations : sequence of chat messages
        In transformers' form; images are PIL images.

    Raises
    ------
    ValueError
        If one holds a video or a sound.
    """
    processor = checkpoint.processor
    texts = processor.apply_chat_template(list(conversations), tokenize=False, add_generation_prompt=True)
    images = [images_of(conversation) for conversation in conversations]
    begin = processor.tokenizer.bos_token
    # Many templates write the first token themselves: then the tokenizer must not write it again.
    written = {"add_special_tokens": False} if begin is not None and texts[0].startswith(begin) else {}
    inputs = processor(
        text=texts,
        images=images if any(images) else None,
        padding=True,
        padding_side="left",
        return_tensors="pt",
        images_kwargs=dict(checkpoint.images_kwargs),
        **written,
    )
    return inputs.to(checkpoint.device, checkpoint.dtype)
