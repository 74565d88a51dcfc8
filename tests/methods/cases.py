"""The matrix: every configuration of every method, by its config name."""

from collections.abc import Callable
from dataclasses import fields
from pkgutil import resolve_name

import torch
from torch import Tensor

from sparsemm.configs import names, read
from sparsemm.methods import KVMethod, ModelShape

Factory = Callable[[int | float, int, ModelShape], KVMethod]


def visual_scores(shape: ModelShape, seed: int = 0) -> Tensor:
    """A few heads with nearly all of the score, many with little, some with none."""
    generator = torch.Generator().manual_seed(seed)
    size = (shape.num_hidden_layers, shape.num_attention_heads)
    scores = torch.rand(size, generator=generator, dtype=torch.float64) ** 6
    scores = scores.masked_fill(scores < 1e-4, 0.0)
    scores[-1, -1] = 1.0
    return scores


def _factory(name: str) -> Factory:
    """A method as its configuration has it, with made head scores where it wants some."""
    parameters = read("method", name)
    method = resolve_name(parameters.pop("_target_"))
    taken = {field.name for field in fields(method) if field.init}

    def make(budget: int | float, window: int, shape: ModelShape) -> KVMethod:
        given = {"budget": budget, "window": window, "head_scores": visual_scores(shape)}
        return method(**parameters | {name: value for name, value in given.items() if name in taken})

    return make


METHODS: dict[str, Factory] = {name: _factory(name) for name in names("method")}
"""One for every file of ``eval_configs/method``: a new method enters every test of the matrix by its file."""

DESIGNED = (
    *("fullkv", "streaming_llm", "snapkv", "pyramidkv", "adakv", "adakv_original", "sparsemm", "random"),
    *("sparsemm_layer_mean", "sparsemm_shuffled", "sparsemm_flat"),
    *("pyramidkv_released", "adakv_released", "sparsemm_released"),
)
"""Those of the papers and their controls; `tests.methods.reference` has their formulas."""

# Whose quotas sum to the budget to the token, and over what.
EXACT_PER_LAYER = ("streaming_llm", "snapkv", "adakv", "adakv_original", "sparsemm_flat")
EXACT_OVER_LAYERS = ("pyramidkv", "sparsemm", "random", "sparsemm_layer_mean", "sparsemm_shuffled")
EVICTS_AT_THE_PROMPT = ("adakv_released", "sparsemm_released")
