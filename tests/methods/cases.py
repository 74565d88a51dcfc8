"""The matrix: every configuration of every method, by its config name."""

from collections.abc import Callable

import torch
from torch import Tensor

from sparsemm.methods import (
    AdaKV,
    FullKV,
    KVMethod,
    ModelShape,
    PyramidKV,
    RandomHeads,
    SnapKV,
    SparseMM,
    StreamingLLM,
)

Factory = Callable[[int | float, int, ModelShape], KVMethod]


def visual_scores(shape: ModelShape, seed: int = 0) -> Tensor:
    """A few heads with nearly all of the score, many with little, some with none."""
    generator = torch.Generator().manual_seed(seed)
    size = (shape.num_hidden_layers, shape.num_attention_heads)
    scores = torch.rand(size, generator=generator, dtype=torch.float64) ** 6
    scores = scores.masked_fill(scores < 1e-4, 0.0)
    scores[-1, -1] = 1.0
    return scores


METHODS: dict[str, Factory] = {
    "fullkv": lambda budget, window, shape: FullKV(),
    "streaming_llm": lambda budget, window, shape: StreamingLLM(budget, window=window),
    "snapkv": lambda budget, window, shape: SnapKV(budget, window=window),
    "pyramidkv": lambda budget, window, shape: PyramidKV(budget, window=window),
    "adakv": lambda budget, window, shape: AdaKV(budget, window=window),
    "adakv_original": lambda budget, window, shape: AdaKV(
        budget, window=window, floor=0.5, kernel=7, pooling="max", normalize=False
    ),
    "sparsemm": lambda budget, window, shape: SparseMM(budget, visual_scores(shape), window=window),
    "random": lambda budget, window, shape: RandomHeads(budget, window=window),
    "sparsemm_layer_mean": lambda budget, window, shape: SparseMM(
        budget, visual_scores(shape), window=window, control="layer_mean"
    ),
    "sparsemm_shuffled": lambda budget, window, shape: SparseMM(
        budget, visual_scores(shape), window=window, control="shuffled"
    ),
    "sparsemm_flat": lambda budget, window, shape: SparseMM(
        budget, visual_scores(shape), window=window, control="flat"
    ),
    "pyramidkv_released": lambda budget, window, shape: PyramidKV(budget, window=window, rounding="released"),
    "adakv_released": lambda budget, window, shape: AdaKV(budget, window=window, rounding="released"),
    "sparsemm_released": lambda budget, window, shape: SparseMM(
        budget, visual_scores(shape), window=window, overflow="drop", rounding="released"
    ),
}

# Whose quotas sum to the budget to the token, and over what.
EXACT_PER_LAYER = ("streaming_llm", "snapkv", "adakv", "adakv_original", "sparsemm_flat")
EXACT_OVER_LAYERS = ("pyramidkv", "sparsemm", "random", "sparsemm_layer_mean", "sparsemm_shuffled")
EVICTS_AT_THE_PROMPT = ("adakv_released", "sparsemm_released")
