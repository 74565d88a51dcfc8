"""A model that is measured: a shape with random weights, or a checkpoint; of both the text backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
)

from sparsemm.cache import model_shape
from sparsemm.configs import InputError, given_or_shipped
from sparsemm.efficiency.shapes import SHAPES, synthetic_scores
from sparsemm.heads import HeadScores
from sparsemm.methods import ModelShape
from sparsemm.models.checkpoint import fingerprint, locate
from sparsemm.models.loading import load_model, read_config, trusts

CHECKPOINT = "checkpoint"
"""Name of the model that the group `model` configures, among the shapes."""

RANDOM = "random"


@dataclass(frozen=True)
class Subject:
    """What is known of a model before it is made.

    Attributes
    ----------
    name
        Of the shape, or of the checkpoint's configuration.
    config
        The whole model's.
    weights
        "random", or the fingerprint of the checkpoint.
    all_layers
        Layers of the real model.
    window
        The methods' window.
    head_scores
        [layers, query heads].
    scores_from
        "synthetic", or the file of head scores.
    pretrained
        Folder of the checkpoint; None for a shape.
    dtype
        Number format of the weights.
    trust_remote_code
        Whether code that comes with the checkpoint may be run.
    """

    name: str
    config: PretrainedConfig
    weights: str
    all_layers: int
    window: int
    head_scores: Tensor
    scores_from: str
    pretrained: Path | None
    dtype: torch.dtype
    trust_remote_code: bool = False

    @property
    def shape(self) -> ModelShape:
        """The text backbone's sizes; only layers that compress are counted."""
        return model_shape(self.config.get_text_config(decoder=True))


def shape_subject(name: str, layers: int | None, positions: int, dtype: torch.dtype) -> Subject:
    """One of `SHAPES`, with so many of its layers (None: all)."""
    shape = SHAPES[name]
    if layers is not None and layers > shape.num_hidden_layers:
        raise InputError(f"{name} has {shape.num_hidden_layers} layers, got layers={layers}")
    config = shape.config(layers, positions)
    scores = synthetic_scores(model_shape(config))
    return Subject(name, config, RANDOM, shape.num_hidden_layers, 32, scores, "synthetic", None, dtype)


def checkpoint_subject(model: Mapping[str, Any], dtype: torch.dtype) -> Subject:
    """The checkpoint of a file of ``eval_configs/model``; synthetic head scores where it names none."""
    folder, trust = locate(model["pretrained"]), trusts(model)
    config = read_config(folder, trust)
    shape = model_shape(config.get_text_config(decoder=True))
    if model["head_scores"] is None:
        scores, scores_from = synthetic_scores(shape), "synthetic"
    else:
        scores_from = str(model["head_scores"])
        scores = torch.from_numpy(HeadScores.load(given_or_shipped(scores_from)).scores)
    layers = config.get_text_config(decoder=True).num_hidden_layers
    return Subject(
        model["name"], config, fingerprint(folder), layers, model["window"], scores, scores_from,
        folder, dtype, trust,
    )  # fmt: skip


class Backbone:
    """A model on its device.

    Parameters
    ----------
    subject
        Which.
    device
        Where.
    """

    def __init__(self, subject: Subject, device: torch.device) -> None:
        self.subject, self.device = subject, device
        self.model: Any = _make(subject, device).eval()

    def attend_with(self, name: str) -> None:
        """Let the text backbone attend with transformers' "sdpa" or with our "sparsemm"."""
        config = self.subject.config
        whole = config.get_text_config(decoder=True) is config
        self.model.set_attn_implementation(name if whole else {"text_config": name})

    @property
    def weight_bytes(self) -> int:
        """Bytes of the text backbone's weights and of its output layer."""
        return sum(_nbytes(weight) for weight in self._weights().values())

    @property
    def read_bytes(self) -> int:
        """Bytes of the weights that every token reads: all but an input embedding of its own."""
        weights = self._weights()
        embedding = self.model.get_input_embeddings().weight
        tied = self.model.get_output_embeddings().weight.data_ptr() == embedding.data_ptr()
        return self.weight_bytes - (0 if tied else _nbytes(weights[embedding.data_ptr()]))

    def random_ids(self, batch_size: int, tokens: int) -> Tensor:
        """Seeded token ids [batch size, tokens] that stand for nothing but text."""
        config = self.subject.config
        special = {
            value
            for part in (config, config.get_text_config(decoder=True))
            for key, value in part.to_dict().items()
            if key.endswith(("_token_id", "_token_index")) and isinstance(value, int)
        }
        size = config.get_text_config(decoder=True).vocab_size
        plain = torch.tensor([token for token in range(size) if token not in special])
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(len(plain), (batch_size, tokens), generator=generator)
        return plain[drawn].to(self.device)

    def _weights(self) -> dict[int, Tensor]:
        """Each weight once, by where it lies."""
        held = [*self.model.get_decoder().parameters(), self.model.get_output_embeddings().weight]
        return {weight.data_ptr(): weight for weight in held}


def _make(subject: Subject, device: torch.device) -> Any:
    if subject.pretrained is None:
        torch.manual_seed(0)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(
                subject.config, dtype=subject.dtype, trust_remote_code=False
            )
    pictures = type(subject.config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto: Any = AutoModelForImageTextToText if pictures else AutoModelForCausalLM
    return load_model(auto, subject.pretrained, subject.trust_remote_code, dtype=subject.dtype).to(device)


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
