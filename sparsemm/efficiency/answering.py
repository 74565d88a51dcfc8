"""The three ways to answer that are compared: fan-out, transformers' own path, and real eviction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sparsemm.cache import RaggedCache, fan_out
from sparsemm.cache.greedy import GREEDY, until_end
from sparsemm.cache.stock import cache_argument
from sparsemm.methods import KVMethod
from sparsemm.models.loading import ATTENTION


class Answers(NamedTuple):
    """What was generated.

    Attributes
    ----------
    tokens
        Generated ids, end token included: a list for each method, in it one for each document.
    prompt_tokens
        Valid prompt tokens of each document.
    rows
        Rows decoded.
    """

    tokens: list[list[list[int]]]
    prompt_tokens: list[int]
    rows: int


def fanned_out(
    model: Any, batches: Sequence[Any], methods: Sequence[KVMethod], max_new_tokens: int, max_rows: int | None
) -> Answers:
    """Answer under all methods at once; with FullKV alone this is our own greedy loop."""
    found = [
        fan_out(model, inputs, methods, max_new_tokens=max_new_tokens, max_rows=max_rows)
        for inputs in batches
    ]
    tokens = [[row for part in found for row in part.tokens[method]] for method in range(len(methods))]
    lengths = [length for part in found for length in part.prompt_tokens]
    return Answers(tokens, lengths, sum(part.rows for part in found))


@contextmanager
def stock_attention(model: Any) -> Iterator[None]:
    """The text backbone with transformers' SDPA in place of our attention."""
    model.set_attn_implementation({"text_config": "sdpa"})
    try:
        yield
    finally:
        model.set_attn_implementation(dict(ATTENTION))


def plain(model: Any, batches: Sequence[Any], max_new_tokens: int) -> Answers:
    """Answer with ``generate`` and the cache that it chooses itself: what any user of transformers runs."""
    return _generated(model, batches, max_new_tokens, lambda: None)


def evicted(model: Any, batches: Sequence[Any], method: KVMethod, max_new_tokens: int) -> Answers:
    """Answer under one method with `RaggedCache`, which drops what the method does not keep."""
    return _generated(
        model,
        batches,
        max_new_tokens,
        lambda: RaggedCache(model.config, method, max_new_tokens=max_new_tokens),
    )


def _generated(model: Any, batches: Sequence[Any], max_new_tokens: int, make_cache: Any) -> Answers:
    tokens, lengths = [], []
    for inputs in batches:
        sequences = model.generate(
            **inputs,
            **cache_argument(make_cache()),
            max_new_tokens=max_new_tokens,
            **GREEDY,
        )
        tokens += until_end(
            sequences[:, inputs["input_ids"].shape[1] :], model.generation_config.eos_token_id
        )
        lengths += inputs["attention_mask"].sum(dim=1).tolist()
    return Answers([tokens], lengths, len(tokens))
