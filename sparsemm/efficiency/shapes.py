"""The paper's models as shapes: sizes of their text backbones, random weights, synthetic head scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config

from sparsemm.methods import ModelShape

TOP_HEADS, TOP_SCORE = 0.05, 0.55
"""The best 5% of the query heads hold 55% of the score, as in the head scores released for LLaVA-NeXT."""

CONFIGS: dict[str, type[Any]] = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a text backbone, as its model's ``config.json`` has them.

    Attributes
    ----------
    model_type
        Architecture: "llama", "mistral" or "qwen2".
    """

    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    rope_theta: float

    def config(self, layers: int | None, positions: int) -> PretrainedConfig:
        """A configuration with so many layers (None: all) and positions, full attention in all of them."""
        count = self.num_hidden_layers if layers is None else layers
        more = {"sliding_window": None} if self.model_type == "mistral" else {}
        return CONFIGS[self.model_type](
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=count,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=self.num_key_value_heads,
            vocab_size=self.vocab_size,
            max_position_embeddings=positions,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            **more,
        )


SHAPES = {
    "llava_next_vicuna_7b": Shape("llama", 4096, 11008, 32, 32, 32, 32064, 1e4),
    "llava_next_mistral_7b": Shape("mistral", 4096, 14336, 32, 32, 8, 32064, 1e6),
    "qwen2_vl_7b": Shape("qwen2", 3584, 18944, 28, 28, 4, 152064, 1e6),
    "small": Shape("llama", 512, 1024, 2, 4, 2, 1024, 1e4),
}
"""LLaVA-NeXT on Vicuna and on Mistral, Qwen2-VL, and a small one to try the benchmark with."""


PAPER = ("llava_next_vicuna_7b", "llava_next_mistral_7b", "qwen2_vl_7b")
"""Those whose times the paper publishes."""


def synthetic_scores(shape: ModelShape, seed: int = 0) -> Tensor:
    """Draw head scores for a model that has none: [layers, query heads] float64, summing to 1.

    The best `TOP_HEADS` of the heads (at least one), spread at random, hold `TOP_SCORE` of the score. Within
    both parts a head's share is uniform between a half and one and a half of the part's mean.
    """
    generator = torch.Generator().manual_seed(seed)
    size = (shape.num_hidden_layers, shape.num_attention_heads)
    count = size[0] * size[1]
    top = max(1, round(TOP_HEADS * count))
    order = torch.randperm(count, generator=generator)
    scores = 0.5 + torch.rand(count, generator=generator, dtype=torch.float64)
    for heads, share in ((order[:top], TOP_SCORE), (order[top:], 1 - TOP_SCORE)):
        scores[heads] *= share / scores[heads].sum()
    return (scores / scores.sum()).view(size)
