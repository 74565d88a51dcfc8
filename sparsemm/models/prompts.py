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
