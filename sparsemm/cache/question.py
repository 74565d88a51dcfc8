"""A question behind the compressed part of a prompt: what is evicted was chosen without seeing it.

A prompt is then a context (the image, and what comes before it) and a question. The context is compressed as
a prompt of its own; the question's tokens attend to what was kept of it, and are kept whole, like generated
ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

QuestionTokens = int | Sequence[int] | Tensor
"""Tokens of the question at the end of each prompt: one number for all rows, or one for each."""

PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""What a processor gives for every token, [B, L]."""


def question_lengths(question_tokens: QuestionTokens, lengths: Tensor) -> Tensor:
    """Return the question's tokens of each row, int64 [B] on the CPU.

    Parameters
    ----------
    question_tokens
        As given by the user.
    lengths
        Valid tokens of each prompt, [B].

    Raises
    ------
    ValueError
        For another number of rows, an empty question, or one that leaves no context.
    """
    given = torch.as_tensor(question_tokens).cpu()
    if given.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"question_tokens must be whole numbers, got {question_tokens!r}")
    given = given.long()
    if given.ndim > 1 or given.numel() not in (1, len(lengths)):
        raise ValueError(f"question_tokens are given for {given.numel()} rows, the prompt has {len(lengths)}")
    given = given.expand(len(lengths)) if given.ndim == 0 or given.numel() == 1 else given
    if bool((given < 1).any()) or bool((given >= lengths.cpu()).any()):
        raise ValueError(
            f"question_tokens must be at least 1 and leave some of the prompt before them, got "
            f"{given.tolist()} of {lengths.tolist()}"
        )
    return given


@dataclass(frozen=True, eq=False)
class Context:
    """Prompts without their questions, as a left-padded batch of their own.

    Attributes
    ----------
    question
        Tokens of each question, int64 [B] on the CPU.
    length
        Tokens of the prompts, padding and questions included.
    lengths
        Valid tokens of each context, int64 [B] on the CPU.
    valid
        Which columns are not padding, bool [B, C]; None for all.
    source
        Column of the prompt behind each column of the context, int64 [B, C]; None where they are the same.
    """

    question: Tensor
    length: int
    lengths: Tensor
    valid: Tensor | None
    source: Tensor | None

    @classmethod
    def of(cls, question: Tensor, lengths: Tensor, length: int, device: torch.device) -> Context:
        """Cut questions [B] from prompts of `lengths` valid tokens [B], padded to `length`; all in tokens."""
        columns = torch.arange(length - int(question.min()))
        shifted = columns - (question - question.min())[:, None]  # [B, C]
        valid = shifted >= (length - lengths)[:, None]
        ragged = bool((question != question[0]).any())
        return cls(
            question=question,
            length=length,
            lengths=lengths - question,
            valid=None if bool(valid.all()) else valid.to(device),
            source=shifted.clamp(min=0).to(device) if ragged else None,
        )

    def part(self, states: Tensor) -> Tensor:
        """Queries, keys or values of the context: [B, heads, L, head_dim] -> [B, heads, C, head_dim]."""
        if self.source is None:
            return states[:, :, : self.length - int(self.question[0])]
        return states.gather(
            2, self.source[:, None, :, None].expand(-1, *states.shape[1:2], -1, states.shape[3])
        )

    def tokens(self, values: Tensor) -> Tensor:
        """What is given for every token of the prompt, [B, L], for the context's: [B, C]; padding is 0."""
        part = self.part(values[:, None, :, None])[:, 0, :, 0]
        return part if self.valid is None else part.masked_fill(~self.valid.to(part.device), 0)

    def kept_of_prompt(self, kept: Tensor) -> Tensor:
        """Marks of the context, bool [B, KV heads, C], as marks of the prompt, [B, KV heads, L]."""
        columns = torch.arange(self.length, device=kept.device)
        shift = (self.question - self.question.min()).to(kept.device)
        place = columns + shift[:, None]  # [B, L]
        inside = place < kept.shape[-1]
        index = place.clamp(max=kept.shape[-1] - 1)[:, None].expand(-1, kept.shape[1], -1)
        return kept.gather(2, index) | ~inside[:, None]


def refuse_prefix(mask: Tensor | None, lengths: Tensor) -> None:
    """Raise ValueError where a prompt's first token sees its last: then an image would see the question, too.

    mask is the prompt's, bool [B, 1, L, L]; None is causal. `lengths` are its rows' valid tokens, [B].
    """
    if mask is None or mask.shape[2] == 1:
        return
    rows = torch.arange(len(lengths))
    if bool(mask[rows, 0, mask.shape[2] - lengths, -1].any()):
        raise ValueError(
            "in this model all tokens of a prompt see each other: nothing can be hidden from its image"
        )


def attend_to_kept(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    kept: Tensor,
    question: Tensor,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Attention of the questions' tokens over what was kept, and over themselves.

    Parameters
    ----------
    query, key, value
        Of the whole prompt, [B, heads, L, head_dim] and [B, KV heads, L, head_dim].
    mask
        Bool [B, 1, L, L]; None is causal.
    kept
        Bool [B, KV heads, L], questions included.
    question
        Tokens of each question, [B] on the CPU.
    scaling
        Factor of the dot products.

    Returns
    -------
    output
        Of the last tokens, as many as the longest question has: [B, T, heads, head_dim].
    asks
        Which of them belong to their row's question, bool [B, T]; the others' outputs mean nothing.
    """
    batch, heads, length, width = query.shape
    kv_heads, tail = key.shape[1], int(question.max())
    asks = (torch.arange(tail) >= tail - question[:, None]).to(query.device)
    if mask is None:
        allowed = query.new_ones((tail, length), dtype=torch.bool).tril(length - tail)[None, None]
    else:
        allowed = mask[:, :, -tail:]
    allowed = allowed & kept[:, :, None]  # [B, KV heads, T, L]
    # The group goes in as rows of queries: K and V are never repeated.
    rows = query[:, :, -tail:].reshape(batch, kv_heads, -1, width)
    allowed = allowed.repeat(1, 1, heads // kv_heads, 1)
    output = scaled_dot_product_attention(rows, key, value, attn_mask=allowed, scale=scaling)
    return output.reshape(batch, heads, tail, -1).transpose(1, 2), asks


class Questions(NamedTuple):
    """The questions of a batch.

    Attributes
    ----------
    tokens
        Their ids, int64 [B, longest]; behind the end of shorter ones other tokens, which mean nothing.
    lengths
        Their numbers of tokens, [B] on the CPU.
    """

    tokens: Tensor
    lengths: Tensor

    @property
    def longest(self) -> int:
        """Tokens of the longest one."""
        return self.tokens.shape[1]

    def at(self, step: int, document: Tensor) -> tuple[Tensor, Tensor]:
        """Return, for rows of the given documents [R], the ids at a step and the tokens left from there, [R].

        Not positive: the question has ended, so many tokens ago.
        """
        left = self.lengths.to(document.device)[document] - step
        return self.tokens[document, min(step, self.longest - 1)], left


def split(inputs: Mapping[str, Any], question_tokens: QuestionTokens) -> tuple[dict[str, Any], Questions]:
    """Cut the questions from a left-padded batch of prompts.

    Parameters
    ----------
    inputs
        What a processor gave.
    question_tokens
        See `question_lengths`.

    Returns
    -------
    inputs
        Of the contexts, left-padded anew.
    questions
        What was cut off.
    """
    ids = inputs["input_ids"]
    mask = inputs.get("attention_mask")
    valid = torch.full((len(ids),), ids.shape[1]) if mask is None else mask.sum(dim=1).cpu()
    question = question_lengths(question_tokens, valid)
    context = Context.of(question, valid, ids.shape[1], ids.device)
    contexts = {
        name: context.tokens(value) if name in PER_TOKEN and value.shape[:2] == ids.shape else value
        for name, value in inputs.items()
    }
    place = torch.arange(int(question.max())).expand(len(ids), -1)
    column = (ids.shape[1] - question[:, None] + place).clamp(max=ids.shape[1] - 1)
    return contexts, Questions(ids.gather(1, column.to(ids.device)), question)
