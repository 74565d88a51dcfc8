"""How far a cell's responses are FullKV's: whole texts, and tokens before the first difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any


def agreement(cell: Mapping[str, Any], full: Mapping[str, Any] | None) -> dict[str, list[Any]]:
    """The columns ``agreement_*`` of ``samples.parquet``, a value for each document of a cell.

    None without FullKV's cell (`full`), and for the prefix where a file holds no tokens.
    """
    nothing: list[Any] = [None] * len(cell["samples"]["response"])
    columns = {"agreement_full": nothing, "agreement_prefix": nothing}
    if full is None:
        return columns
    ours, theirs = cell["samples"], full["samples"]
    columns["agreement_full"] = [
        one == other for one, other in zip(ours["response"], theirs["response"], strict=True)
    ]
    if "tokens" in ours and "tokens" in theirs:
        pairs = zip(ours["tokens"], theirs["tokens"], strict=True)
        columns["agreement_prefix"] = [prefix_share(one, other) for one, other in pairs]
    return columns


def prefix_share(tokens: Sequence[int], full: Sequence[int]) -> float:
    """Length of what two lists of tokens begin with in common, over the length of FullKV's list.

    End tokens are included. If FullKV gave no token: 1 if there is none here either, else 0.
    """
    if not full:
        return float(not tokens)
    common = takewhile(lambda pair: pair[0] == pair[1], zip(tokens, full, strict=False))
    return sum(1 for _ in common) / len(full)
