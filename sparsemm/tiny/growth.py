"""Start from a smaller trained model: what it can do is kept, what is added begins harmlessly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from sparsemm.models.checkpoint import locate
from sparsemm.models.loading import load_model
from sparsemm.tiny.vocabulary import build_tokenizer

LAYER = "model.language_model.layers."
EMBEDDING = "model.language_model.embed_tokens.weight"
SILENT = ("self_attn.o_proj.weight", "mlp.down_proj.weight")
"""Zero in an added layer: it then adds nothing to the residual stream until it has learned to."""


def layer_places(before: int, after: int) -> list[int | None]:
    """For each of ``after`` layers the old layer it starts as, or None for an added one; evenly spread.

    Raises
    ------
    ValueError
        If there are fewer layers after than before.
    """
    if after < before:
        raise ValueError(f"a model of {after} layers cannot start from one of {before}")
    added = after - before
    # the added ones stand behind equal runs of old ones, the last old layer stays last
    behind = {before * (index + 1) // (added + 1) - 1 for index in range(added)} if added else set()
    if len(behind) < added:
        raise ValueError(f"{before} layers can at most double, not become {after}")
    places: list[int | None] = []
    for layer in range(before):
        places.append(layer)
        if layer in behind:
            places.append(None)
    return places


def start_from(model: Qwen2VLForConditionalGeneration, folder: str | Path) -> None:
    """Fill a newly built model with the weights of a shallower one with the same widths, in place.

    Rows of the embedding go by token: a small letter that the old tokenizer lacks starts from its
    capital, any other new token stays random.

    Parameters
    ----------
    model : Qwen2VLForConditionalGeneration
        From `build_model`, with the tokenizer of `build_tokenizer`.
    folder : path
        A checkpoint of the same family: opened by its own configuration and tokenizer.

    Raises
    ------
    ValueError
        If widths differ, or the old model is deeper.
    """
    place = locate(str(folder))
    former = load_model(Qwen2VLForConditionalGeneration, place, False, dtype=torch.float32)
    old, mine = former.state_dict(), model.state_dict()
    text: Any = model.config.text_config
    places = layer_places(former.config.text_config.num_hidden_layers, text.num_hidden_layers)
    filled: dict[str, Tensor] = {}
    for name, tensor in mine.items():
        source: str | None = name
        if name.startswith(LAYER):
            layer, _, rest = name[len(LAYER) :].partition(".")
            place = places[int(layer)]
            source = None if place is None else f"{LAYER}{place}.{rest}"
            if place is None and rest in SILENT:
                filled[name] = torch.zeros_like(tensor)
        if name in (EMBEDDING, "lm_head.weight"):
            filled[name] = _embedding(tensor, old[EMBEDDING], folder)
        elif source in old:
            if old[source].shape != tensor.shape:
                raise ValueError(
                    f"{folder} cannot be started from: {name} is {list(old[source].shape)} there, "
                    f"{list(tensor.shape)} here"
                )
            filled[name] = old[source].to(tensor.dtype)
    model.load_state_dict({**mine, **filled})
    model.tie_weights()


def _embedding(new: Tensor, old: Tensor, folder: str | Path) -> Tensor:
    """The old rows at their tokens' new places."""
    known: dict[str, int] = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    rows = new.clone()
    for token, index in build_tokenizer().get_vocab().items():
        if token in known:
            rows[index] = old[known[token]]
        elif len(token) == 1 and token.upper() in known:
            rows[index] += old[known[token.upper()]]
    return rows
