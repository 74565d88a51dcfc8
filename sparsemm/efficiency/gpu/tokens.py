"""Whether the embedded model gives on the device the tokens that it gives on the CPU, whatever decodes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from sparsemm.cache import RaggedCache, fan_out
from sparsemm.cache.layout import Backend
from sparsemm.cache.stock import cache_argument
from sparsemm.configs import given_or_shipped
from sparsemm.efficiency.contenders import default_forms, methods_of
from sparsemm.efficiency.steps import Decoding, Steps, next_token
from sparsemm.efficiency.workloads import WORKLOADS, batches
from sparsemm.heads import HeadScores
from sparsemm.methods import FullKV, KVMethod
from sparsemm.models.loading import Checkpoint, load

BUDGET = 24
FORMS: tuple[tuple[bool, Decoding], ...] = ((False, "eager"), (True, "eager"), (True, "graph"))
"""Growing; static; static and replayed from a graph."""


@dataclass(frozen=True)
class Sizes:
    """How many pages are asked about, which methods and backends answer, and how many tokens."""

    pages: int
    methods: tuple[str, ...] | None
    backends: tuple[Backend, ...]
    new_tokens: int


FULL = Sizes(pages=3, methods=None, backends=("grouped", "loop", "triton"), new_tokens=24)
CUT = Sizes(pages=1, methods=("snapkv",), backends=("grouped",), new_tokens=4)


def compare(model: Mapping[str, Any], device: torch.device, sizes: Sizes) -> dict[str, Any]:
    """Answer questions to pages on the CPU, by fan-out, and on the device in every way.

    Parameters
    ----------
    model
        The embedded model's file of ``eval_configs/model``.

    Returns
    -------
    dict
        How many answers were compared, and how many tokens they have.

    Raises
    ------
    RuntimeError
        When tokens differ: how often, and where first.
    """
    names = sizes.methods or tuple(default_forms())
    scores = HeadScores.load(given_or_shipped(model["head_scores"]))
    methods: list[KVMethod] = [FullKV(), *methods_of(names, [BUDGET], model["window"], lambda: scores)]
    workload = WORKLOADS["lookup"]
    pages = workload.pages(sizes.pages)
    here = load(model, "cpu")
    singles = batches(workload, pages, 1, here)
    expected = [
        [found[0] for found in fan_out(here.model, inputs, methods, max_new_tokens=sizes.new_tokens).tokens]
        for inputs in singles
    ]
    del here
    there = load(model, str(device))
    differing: list[str] = []
    answers = 0
    with torch.no_grad(), _float32_convolutions():
        for number, inputs in enumerate(batches(workload, pages, 1, there)):
            for (place, method), backend, (static, decoding) in product(
                enumerate(methods), sizes.backends, FORMS
            ):
                cache = RaggedCache(
                    there.model.config,
                    method,
                    max_new_tokens=sizes.new_tokens,
                    backend=backend,
                    static=static,
                )
                wanted = expected[number][place]
                if _answer(there, inputs, cache, decoding, len(wanted)) != wanted:
                    form = f"{'static ' * static}{decoding}"
                    differing.append(f"page {number + 1}, {method.name}, {backend}, {form}")
                answers += 1
        [together] = batches(workload, pages, len(pages), there)
        fanned = fan_out(there.model, together, methods, max_new_tokens=sizes.new_tokens).tokens
        for place, number in product(range(len(methods)), range(len(pages))):
            if fanned[place][number] != expected[number][place]:
                differing.append(f"page {number + 1}, {methods[place].name}, fan-out")
            answers += 1
    if differing:
        raise RuntimeError(
            f"{len(differing)} of {answers} answers differ from the CPU's: first {differing[0]}"
        )
    return {"answers": answers, "tokens": sum(len(row) for rows in expected for row in rows), "differing": 0}


def _answer(
    checkpoint: Checkpoint, inputs: Any, cache: RaggedCache, decoding: Decoding, count: int
) -> list[int]:
    """So many greedy tokens after one unpadded prompt."""
    output = checkpoint.model(**inputs, **cache_argument(cache), use_cache=True, logits_to_keep=1)
    token = next_token(output)
    found = [token.clone()]
    # Behind an image Qwen counts on from the largest of its rows and columns, not from the number of tokens.
    # The model keeps by how much; since transformers 5.20 its output no longer says it.
    position = cache.get_seq_length() + checkpoint.model.base_model.rope_deltas.to(token.device)
    steps = Steps(checkpoint.model, cache, token, position.expand(3, -1, -1), decoding)
    steps.warm_up(1)
    while len(found) < count:
        found.append(steps.token.clone())
        steps.step()
    return torch.cat(found, dim=1)[0].tolist()


@contextmanager
def _float32_convolutions() -> Any:
    """Convolutions of the vision tower in float32 proper: cuDNN's would round to ten bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
