"""From a batch of conversations to responses: one prefill, real eviction, greedy decoding."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from sparsemm.cache import RaggedCache
from sparsemm.cache.greedy import GREEDY, NOT_FINITE, FiniteLogits, until_end
from sparsemm.cache.layout import Backend
from sparsemm.cache.stock import cache_argument
from sparsemm.evaluation.allocations import pack
from sparsemm.evaluation.own_bytes import own_bytes
from sparsemm.evaluation.prefill import Prefill
from sparsemm.evaluation.responses import Response, failure
from sparsemm.methods import KVMethod
from sparsemm.models.loading import Checkpoint
from sparsemm.models.prompts import images_of, prepare


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


@torch.inference_mode()
def generate(
    checkpoint: Checkpoint,
    conversations: Sequence[list[dict[str, Any]]],
    method: KVMethod,
    *,
    max_new_tokens: int,
    until: Sequence[str] = (),
    prefill: Prefill | None = None,
    backend: Backend | None = None,
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
    prefill : Prefill, optional
        How the prompts are read; default: as a whole, by all heads.
    backend : str, optional
        How generated tokens attend; default: `RaggedCache`'s.

    Returns
    -------
    list of Response
        In the order of `conversations`.
    """
    inputs = prepare(checkpoint, conversations)
    options = (prefill or Prefill()).options(checkpoint, inputs)
    cache = RaggedCache(
        checkpoint.model.config, method, max_new_tokens=max_new_tokens, backend=backend, **options
    )
    end = checkpoint.model.generation_config.eos_token_id
    clock, finite = StepClock(), FiniteLogits(end)
    start = time.perf_counter()
    sequences = checkpoint.model.generate(
        **inputs,
        **cache_argument(cache),
        max_new_tokens=max_new_tokens,
        logits_processor=LogitsProcessorList([finite]),
        stopping_criteria=StoppingCriteriaList([clock]),
        **GREEDY,
    )
    generated = sequences[:, inputs["input_ids"].shape[1] :]
    tokens = until_end(generated, end)
    stats, rows = cache.stats(), len(tokens)
    lost = [False] * rows if finite.lost is None else finite.lost.tolist()
    per_layer = stats.realised_per_head.double().mean(dim=-1)  # [layers, B]
    held = [
        own_bytes(
            checkpoint,
            stats.realised_per_head[:, row],
            prompt_tokens=stats.prompt_tokens[row],
            question_tokens=(options["question_tokens"] or [0] * rows)[row],
            new_tokens=len(tokens[row]),
            max_new_tokens=max_new_tokens,
            backend=backend,
        )
        for row in range(rows)
    ]
    return [
        Response(
            text=text,
            tokens=tuple(tokens[row]),
            prompt_tokens=stats.prompt_tokens[row],
            realised_per_layer=tuple(per_layer[:, row].tolist()),
            evicted_tokens=stats.evicted_per_row[row],
            kv_bytes=held[row].kept,
            full_kv_bytes=held[row].full,
            image=image_key(conversations[row]),
            prefill_s=(clock.times[0] - start) / rows,
            decode_s=(clock.times[-1] - clock.times[0]) / rows,
            kept=pack(stats.realised_per_head[:, row].flatten().tolist()),
        )
        if not lost[row]
        else failure(FloatingPointError(NOT_FINITE))
        for row, text in enumerate(texts_of(checkpoint, tokens, until))
    ]


def texts_of(checkpoint: Checkpoint, tokens: Sequence[Sequence[int]], until: Sequence[str]) -> list[str]:
    """The texts of generated ids, without special tokens, cut at the stop strings."""
    texts = checkpoint.processor.batch_decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return [cut(text, until) for text in texts]


def image_key(conversation: Sequence[dict[str, Any]]) -> str:
    """Sixteen hex digits of a conversation's images, pixel by pixel; empty without images."""
    images = images_of(conversation)
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.mode} {image.size}".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()[:16] if images else ""


def cut(text: str, until: Sequence[str]) -> str:
    """The text before the first stop string."""
    ends = [position for stop in until if stop and (position := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text
