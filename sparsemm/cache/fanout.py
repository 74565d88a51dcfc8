"""Fan-out: one prefill, decoded greedily under many methods at once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsemm.cache.fanout_cache import FanoutCache
from sparsemm.cache.greedy import GREEDY, not_finite
from sparsemm.cache.head_mask import MaskMode
from sparsemm.cache.question import Questions, QuestionTokens, split
from sparsemm.cache.stock import LogitsProcessorList, cache_argument
from sparsemm.methods import KVMethod

LOST = -1
"""In the place of a token that cannot be chosen, because the logits are not finite."""


@dataclass(frozen=True, eq=False)
class Fanout:
    """What `fan_out` gives.

    Attributes
    ----------
    tokens
        Generated token ids, end token included: a list for each method, in it one for each document.
    finite
        The same of whether all logits were finite; a text ends where they were not, and is no answer.
    kept
        Prompt entries kept, window included, int64 [methods, layers, B, KV heads]: those that `RaggedCache`
        keeps.
    prompt_tokens
        Valid (unpadded) prompt tokens of each document, its question included.
    question_tokens
        Those of them that came after compression; 0 where none were asked for.
    padded_length
        Tokens of the batch's prompts, padding included.
    rows
        Rows decoded: methods that keep the same entries of a document share one.
    """

    tokens: list[list[list[int]]]
    finite: list[list[bool]]
    kept: Tensor
    prompt_tokens: list[int]
    question_tokens: list[int]
    padded_length: int
    rows: int


def fan_out(
    model: Any,
    inputs: Any,
    methods: Sequence[KVMethod],
    *,
    max_new_tokens: int,
    max_rows: int | None = None,
    head_mask: Tensor | None = None,
    head_mask_mode: MaskMode = "remove",
    question_tokens: QuestionTokens | None = None,
) -> Fanout:
    """Answer a batch of prompts under each of several methods, greedily, from one prefill.

    The prompt's attention is full whatever the method, so it runs once. Each method then decodes its own row
    of each document, which attends to the entries that the method keeps. The answers are those of separate
    runs with `RaggedCache`; memory and latency are not.

    Parameters
    ----------
    model
        A generating model of transformers with ``attn_implementation={"text_config": "sparsemm"}``.
    inputs
        What its processor gave for the prompts, left-padded.
    methods
        At least one.
    max_new_tokens
        Upper limit of generated tokens.
    max_rows
        Rows decoded at the same time; more are decoded one lot after another. None: all at once.
    head_mask, head_mask_mode
        Query heads to switch off, as in `RaggedCache`.
    question_tokens
        Tokens at the end of each prompt that come after compression, as in `RaggedCache`. They are given to
        the rows one by one, as if they had generated them.

    Returns
    -------
    Fanout

    Raises
    ------
    ValueError
        As `FanoutCache`; also for `max_rows` below 1, and questions that do not fit the prompts.
    """
    if max_rows is not None and max_rows < 1:
        raise ValueError(f"max_rows must be positive, got {max_rows}")
    cache = FanoutCache(
        model.config,
        methods,
        head_mask=head_mask,
        head_mask_mode=head_mask_mode,
        asked=question_tokens is not None,
        prompt_length=inputs["input_ids"].shape[1],
        max_new_tokens=max_new_tokens,
    )
    contexts, questions = (inputs, None) if question_tokens is None else split(inputs, question_tokens)
    loop = _Loop(cache, max_rows, questions, max_new_tokens)
    model.generate(
        **contexts,
        **cache_argument(loop.cache),
        custom_generate=loop,
        max_new_tokens=max_new_tokens + (questions.longest if questions else 0),
        **GREEDY,
    )
    assert loop.result is not None
    return replace(loop.result, padded_length=inputs["input_ids"].shape[1])


class _Loop:
    """Greedy decoding in the place of transformers' own; ``generate`` calls it with all options parsed."""

    def __init__(
        self, cache: FanoutCache, max_rows: int | None, questions: Questions | None, max_new_tokens: int
    ) -> None:
        self.cache, self.max_rows = cache, max_rows
        self.questions, self.max_new_tokens = questions, max_new_tokens
        self.result: Fanout | None = None

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> Tensor:
        """Decode all rows into `result`; return the prompts, since ``generate`` wants a tensor."""
        self.model, self.processors, self.criteria = model, logits_processor, stopping_criteria
        mask = model_kwargs.get("attention_mask")
        prompt = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
        outputs = model(**prompt, return_dict=True)
        self.positions = _next_positions(prompt, mask, input_ids)
        self.mask = mask if self.cache.needs_mask else None
        self.prompt_length = input_ids.shape[1]
        everyone = torch.arange(len(input_ids), device=input_ids.device)
        self.begun, self.ended = self._extend(input_ids, outputs.logits, logits_processor, everyone)
        del outputs

        classes = self.cache.classes()  # [methods, B]
        documents, methods = np.nonzero(np.arange(len(classes)) == classes.T)  # a document's side by side
        decoded: list[list[int]] = []
        lot = self.max_rows or len(documents)
        for start in range(0, len(documents), lot):
            decoded += self._decode(documents[start : start + lot], methods[start : start + lot])
        number = np.empty_like(classes)
        number[methods, documents] = np.arange(len(documents))
        contexts = self.cache.compressible_layers[0].lengths
        asked = torch.zeros_like(contexts) if self.questions is None else self.questions.lengths
        rows_of = np.take_along_axis(number, classes, axis=0)  # [methods, B]
        self.result = Fanout(
            tokens=[
                [
                    [token for token in decoded[row][asked[document] :] if token != LOST]
                    for document, row in enumerate(rows)
                ]
                for rows in rows_of
            ],
            finite=[[decoded[row][-1] != LOST for row in rows] for rows in rows_of],
            kept=self.cache.kept(),
            prompt_tokens=(contexts + asked).tolist(),
            question_tokens=asked.tolist(),
            padded_length=input_ids.shape[1],
            rows=len(documents),
        )
        return input_ids

    def _decode(self, documents: NDArray[np.int64], methods: NDArray[np.int64]) -> list[list[int]]:
        """Decode a lot of rows to their ends: of each its document and method, [R]; return its new tokens.

        A question that came after compression is among them.
        """
        document = torch.from_numpy(documents).to(self.begun.device)
        sequences, positions = self.begun[document], self.positions.index_select(-2, document)
        mask = None if self.mask is None else self.mask[document]
        alive = ~self.ended[document].cpu().numpy()
        live = np.arange(len(documents))
        texts: list[list[int]] = [[] for _ in live]
        self.cache.begin(documents, methods)
        while True:
            if not alive.all():
                new = sequences[:, self.prompt_length :].cpu()
                for number in np.flatnonzero(~alive):
                    texts[live[number]] = new[number].tolist()
                live = live[alive]
                if not len(live):
                    return texts
                self.cache.keep_rows(alive)
                rows = torch.from_numpy(np.flatnonzero(alive)).to(document.device)
                document, sequences = document[rows], sequences[rows]
                positions = positions.index_select(-2, rows)
                mask = None if mask is None else mask[rows]
            if mask is not None:
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            outputs = self.model(
                input_ids=sequences[:, -1:],
                attention_mask=mask,
                position_ids=positions,
                **cache_argument(self.cache),
                use_cache=True,
                return_dict=True,
            )
            processors = _for_rows(self.processors, document)
            sequences, ended = self._extend(sequences, outputs.logits, processors, document)
            positions = positions + 1
            alive = ~ended.cpu().numpy()

    def _extend(
        self, sequences: Tensor, logits: Tensor, processors: Any, document: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Append each row's next token to its sequence, and say whether its text ends there, bool [R].

        As long as a row's `document` has a question left, the next token is the question's, and nothing ends.
        Where no token can be chosen, `LOST` stands in its place, and the text ends.
        """
        scores = processors(sequences, logits[:, -1].float())
        tokens, step = scores.argmax(dim=-1), sequences.shape[1] - self.prompt_length
        lost = not_finite(scores)
        if self.questions is None:
            sequences = torch.cat([sequences, tokens.masked_fill(lost, LOST)[:, None]], dim=1)
            return sequences, self.criteria(sequences, scores) | lost
        given, left = self.questions.at(step, document)
        chosen = torch.where(left > 0, given, tokens).masked_fill(lost, LOST)
        sequences = torch.cat([sequences, chosen[:, None]], dim=1)
        ended = self.criteria(sequences, scores) | (left <= 1 - self.max_new_tokens)
        return sequences, ((left <= 0) & ended) | lost


def _for_rows(processors: LogitsProcessorList, document: Tensor) -> LogitsProcessorList:
    """Return processors for rows of the given documents: a repetition penalty knows each prompt's padding."""
    chosen = LogitsProcessorList(map(copy.copy, processors))
    for processor in chosen:
        if isinstance(padding := getattr(processor, "prompt_ignore_length", None), Tensor):
            processor.prompt_ignore_length = padding[document]
    return chosen


def _next_positions(prompt: Any, mask: Tensor | None, input_ids: Tensor) -> Tensor:
    """Position ids of the first token behind a prompt, [..., B, 1]: one beyond the prompt's last."""
    positions = prompt.get("position_ids")
    if positions is None:
        mask = torch.ones_like(input_ids) if mask is None else mask
        positions = mask.long().sum(dim=1, keepdim=True) - 1
    last = positions[..., -1:]
    if last.ndim == 3:
        # Qwen's: frame, row and column come last. An image's last token may have another number in each, and
        # what follows it is beyond the largest.
        last = torch.cat([last[:-3], last[-3:].amax(dim=0, keepdim=True).expand(3, -1, -1)])
    return last + 1
