"""A batch of conversations answered under every method of a grid at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from sparsemm.cache import Fanout, fan_out
from sparsemm.cache.greedy import NOT_FINITE
from sparsemm.evaluation.allocations import pack
from sparsemm.evaluation.generation import image_key, texts_of
from sparsemm.evaluation.memory import Limits, Step
from sparsemm.evaluation.own_bytes import own_bytes
from sparsemm.evaluation.prefill import Prefill
from sparsemm.evaluation.responses import Response, failure
from sparsemm.methods import KVMethod
from sparsemm.models.loading import Checkpoint
from sparsemm.models.prompts import prepare


@torch.inference_mode()
def answer(
    checkpoint: Checkpoint,
    conversations: Sequence[list[dict[str, Any]]],
    methods: Sequence[KVMethod],
    *,
    max_new_tokens: int,
    until: Sequence[str] = (),
    prefill: Prefill | None = None,
    limits: Limits | None = None,
) -> list[list[Response]]:
    """Answer conversations greedily, each under each of the methods, from one prefill.

    When memory does not suffice, half as many documents are taken at a time, then half as many rows; the
    responses are the same.

    Parameters
    ----------
    conversations
        As in `sparsemm.evaluation.generation.generate`.
    methods
        At least one.
    max_new_tokens, until, prefill
        As there.
    limits
        How many documents and rows are taken at a time; it learns. None: all.

    Returns
    -------
    list of lists of Response
        For each method, in the order of `conversations`.
    """
    pieces = _fan_out(
        checkpoint, conversations, methods, max_new_tokens, prefill or Prefill(), limits or Limits()
    )
    kept = torch.cat([piece.kept for piece in pieces], dim=2)  # [methods, layers, B, KV heads]
    prompt_tokens = torch.tensor([length for piece in pieces for length in piece.prompt_tokens])
    question = torch.tensor([length for piece in pieces for length in piece.question_tokens])
    images = [image_key(conversation) for conversation in conversations]
    evicted = ((prompt_tokens - question)[:, None] - kept).sum(dim=(1, 3))  # [methods, B]
    per_layer = kept.double().mean(dim=-1)  # [methods, layers, B]
    answers: list[list[Response]] = []
    for number in range(len(methods)):
        tokens = [row for piece in pieces for row in piece.tokens[number]]
        finite = [row for piece in pieces for row in piece.finite[number]]
        held = [
            own_bytes(
                checkpoint,
                kept[number, :, row],
                prompt_tokens=int(prompt_tokens[row]),
                question_tokens=int(question[row]),
                new_tokens=len(text),
                max_new_tokens=max_new_tokens,
            )
            for row, text in enumerate(tokens)
        ]
        answers.append(
            [
                Response(
                    text=text,
                    tokens=tuple(tokens[row]),
                    prompt_tokens=int(prompt_tokens[row]),
                    realised_per_layer=tuple(per_layer[number, :, row].tolist()),
                    evicted_tokens=int(evicted[number, row]),
                    kv_bytes=held[row].kept,
                    full_kv_bytes=held[row].full,
                    image=images[row],
                    kept=pack(kept[number, :, row].flatten().tolist()),
                )
                if finite[row]
                else failure(FloatingPointError(NOT_FINITE))
                for row, text in enumerate(texts_of(checkpoint, tokens, until))
            ]
        )
    return answers


def _fan_out(
    checkpoint: Checkpoint,
    conversations: Sequence[list[dict[str, Any]]],
    methods: Sequence[KVMethod],
    max_new_tokens: int,
    prefill: Prefill,
    limits: Limits,
) -> list[Fanout]:
    """Fan out a batch in as few pieces as the limits and the memory allow."""
    pieces: list[Fanout] = []
    first = 0
    while first < len(conversations):
        part, step = conversations[first:][: limits.documents], None
        while step is None or step.documents < len(part):
            part = part[: step and step.documents]
            inputs = prepare(checkpoint, part)
            options = prefill.options(checkpoint, inputs)
            wanted = Step(len(part), len(part) * len(methods))
            step = limits.step(wanted, inputs["input_ids"].shape[1], max(options["question_tokens"] or [0]))
        try:
            with limits.holding(step):
                pieces.append(
                    fan_out(
                        checkpoint.model,
                        inputs,
                        methods,
                        max_new_tokens=max_new_tokens,
                        max_rows=step.rows,
                        **options,
                    )
                )
            first += len(part)
            continue
        except (RuntimeError, MemoryError) as error:
            lacking = isinstance(error, MemoryError) or should_reduce_batch_size(error)
            if not lacking or not limits.shrink(step):
                raise
        # Outside the handler: the exception held on to what the failed attempt had allocated.
        clear_device_cache(garbage_collection=True)
    return pieces
