"""From a batch of conversations to responses: one prefill, real eviction, greedy decoding."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lmms_eval.api.instance import TokenCounts
from transformers import StoppingCriteria, StoppingCriteriaList

from sparsemm.cache import RaggedCache
from sparsemm.methods import KVMethod
from sparsemm.models.checkpoint import Checkpoint


@dataclass
class RequestFigures(TokenCounts):
    """What was measured for one request; lmms-eval writes it into the samples log.

    ``input_tokens`` counts the prompt without padding, ``output_tokens`` what was generated with the end
    token.

    Attributes
    ----------
    realised_budget : float
        Entries kept per (layer, KV head) after the prompt, mean over both.
    evicted_tokens : int
        Entries evicted over all layers and KV heads; 0 means that nothing was compressed.
    prefill_s, decode_s : float
        Seconds to the first token and for all further ones: the batch's time over its requests.
    kv_bytes, full_kv_bytes : float
        Bytes allocated at the end less free slots, and bytes of a full cache of the same tokens: the
        batch's bytes over its requests.
    """

    realised_budget: float = 0.0
    evicted_tokens: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    kv_bytes: float = 0.0
    full_kv_bytes: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """All figures, lmms-eval's own names first."""
        own = ("realised_budget", "evicted_tokens", "prefill_s", "decode_s", "kv_bytes", "full_kv_bytes")
        return {**super().to_dict(), **{name: getattr(self, name) for name in own}}


@dataclass(frozen=True)
class Response:
    """A model's answer to one request."""

    text: str
    figures: RequestFigures


class StepClock(StoppingCriteria):
    """Never stops; notes when each token was ready."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        """Note the time; False for every row."""
        if input_ids.is_cuda:
            torch.cuda.synchronize(input_ids.device)
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


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
    """Tokenise conversations as one left-padded batch with their images, on the model's device."""
    processor = checkpoint.processor
    texts = processor.apply_chat_template(list(conversations), tokenize=False, add_generation_prompt=True)
    images = [images_of(conversation) for conversation in conversations]
    inputs = processor(
        text=texts,
        images=images if any(images) else None,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    return inputs.to(checkpoint.device, checkpoint.dtype)


@torch.inference_mode()
def generate(
    checkpoint: Checkpoint,
    conversations: Sequence[list[dict[str, Any]]],
    method: KVMethod,
    *,
    max_new_tokens: int,
    until: Sequence[str] = (),
) -> list[Response]:
    """Answer a batch of conversations greedily, each with its prompt compressed by `method`.

    Parameters
    ----------
    conversations : sequence of chat messages
        In transformers' form; images are PIL images.
    max_new_tokens : int
        Upper limit of generated tokens.
    until : sequence of str
        The text ends before the first of these.

    Returns
    -------
    list of Response
        In the order of `conversations`.
    """
    inputs = prepare(checkpoint, conversations)
    cache = RaggedCache(checkpoint.model.config, method, max_new_tokens=max_new_tokens)
    clock = StepClock()
    start = time.perf_counter()
    sequences = checkpoint.model.generate(
        **inputs,
        past_key_values=cache,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        temperature=None,
        top_p=None,
        top_k=None,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    generated = sequences[:, inputs["input_ids"].shape[1] :]
    lengths = _lengths(generated, checkpoint.model.generation_config.eos_token_id)
    texts = checkpoint.processor.batch_decode(
        [row[:length] for row, length in zip(generated.tolist(), lengths, strict=True)],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    stats, rows = cache.stats(), len(texts)
    return [
        Response(
            cut(text, until),
            RequestFigures(
                input_tokens=int(stats.prompt_tokens[row]),
                output_tokens=lengths[row],
                realised_budget=float(stats.realised_per_row[row]),
                evicted_tokens=int(stats.evicted_per_row[row]),
                prefill_s=(clock.times[0] - start) / rows,
                decode_s=(clock.times[-1] - clock.times[0]) / rows,
                kv_bytes=(stats.kv_bytes - stats.slack_bytes) / rows,
                full_kv_bytes=stats.full_kv_bytes / rows,
            ),
        )
        for row, text in enumerate(texts)
    ]


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [position for stop in until if stop and (position := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


def _lengths(generated: torch.Tensor, end: int | list[int]) -> list[int]:
    """Tokens of each row [B, T] up to and with its first end token."""
    ends = torch.isin(generated, torch.as_tensor(end, device=generated.device))
    lengths = torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, generated.shape[1])
    return lengths.tolist()
