"""The paper's models as shapes: their sizes, what a token reads of them, and synthetic head scores."""

from typing import Any

import pytest
import torch

from sparsemm.efficiency.backbone import Backbone, shape_subject
from sparsemm.efficiency.shapes import SHAPES, synthetic_scores
from sparsemm.methods import ModelShape


def test_read_bytes_leave_out_only_an_embedding_of_its_own():
    subject = shape_subject("small", 1, 128, torch.float32)
    backbone = Backbone(subject, torch.device("cpu"))
    whole = sum(weight.numel() * 4 for weight in backbone.model.parameters())
    assert backbone.weight_bytes == whole
    assert backbone.read_bytes == whole - 1024 * 512 * 4
    backbone.model.lm_head.weight = backbone.model.model.embed_tokens.weight
    assert backbone.weight_bytes == backbone.read_bytes == whole - 1024 * 512 * 4


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "small"])
def test_shapes_are_the_papers_models(name):
    config: Any = SHAPES[name].config(None, 32768 + 64)
    with torch.device("meta"):
        model = Backbone.__new__(Backbone)  # sizes need no weights
        from transformers import AutoModelForCausalLM

        model.model = AutoModelForCausalLM.from_config(config)
    parameters = sum(weight.numel() for weight in model.model.parameters())
    heads = (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads)
    assert (heads, round(parameters / 1e9, 2)) == {
        "llava_next_vicuna_7b": ((32, 32, 32), 6.74),
        "llava_next_mistral_7b": ((32, 32, 8), 7.24),
        "qwen2_vl_7b": ((28, 28, 4), 7.62),
    }[name]
    assert (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads) == 128


@pytest.mark.parametrize("shape", [ModelShape(32, 32, 8, 128), ModelShape(2, 32, 32, 128)])
def test_synthetic_scores_are_concentrated_as_the_released_ones(shape):
    scores = synthetic_scores(shape).flatten()
    top = round(0.05 * len(scores))
    assert float(scores.sum()) == pytest.approx(1)
    assert float(scores.topk(top).values.sum()) == pytest.approx(0.55)
    assert torch.equal(scores, synthetic_scores(shape).flatten())
