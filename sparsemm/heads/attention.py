"""Where heads look in a picture while a model answers: the attention of generated tokens, laid over it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sparsemm.cache import model_shape
from sparsemm.heads.probe import last_logits, probe
from sparsemm.models import Views, image_tokens
from sparsemm.models.loading import Checkpoint
from sparsemm.models.prompts import asked, prepare

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention of generated tokens to a picture.

    Attributes
    ----------
    maps : Tensor [tokens, heads, rows, columns], float32
        Share of a head's attention on each cell of a grid over the picture, at the step that produced the
        token. A cell is as large as what a token sees; a token's attention is spread evenly over what it
        sees. The sum of all cells is the head's attention to the image: what is missing to 1 went to text.
    heads : tuple of str
        ``layer-head``, as in `sparsemm.heads.HeadScores`.
    tokens : tuple of str
        The generated tokens, without the one that ends the answer.
    answer : str
        Their text.
    question : str
    image : PIL.Image.Image
        As given, RGB.
    """

    maps: Tensor
    heads: tuple[str, ...]
    tokens: tuple[str, ...]
    answer: str
    question: str
    image: Image.Image


def attention_maps(
    model: Any,
    processor: Any,
    image: Image.Image,
    question: str,
    heads: Sequence[str],
    *,
    max_new_tokens: int = 64,
    views: Views = "tiles",
    **options: Any,
) -> AttentionMaps:
    """Let a model answer, and catch where heads look in the picture at each token.

    The answer is greedy, with transformers' own full cache. Only the chosen heads' rows are computed.

    Parameters
    ----------
    model, processor
        Of any family that `sparsemm.models.image_tokens` knows.
    image : PIL.Image.Image
    question : str
    heads : sequence of str
        ``layer-head``, counted from 0 over layers of full attention, as `sparsemm.heads.standing.top_heads`
        gives them.
    max_new_tokens : int, default 64
    views : {"tiles", "base", "all"}, default "tiles"
        Whose tokens count where the family shows the image several times; see `ImageTokens.of_box`.
    **options
        Of the image processor, such as ``do_pan_and_scan=True``.

    Raises
    ------
    ValueError
        No head, or one that the model does not have; unknown `views`; a family whose layout is not known; a
        model that answers nothing.
    """
    shape = model_shape(model.config.get_text_config(decoder=True))
    chosen = [_head(name, shape.num_hidden_layers, shape.num_attention_heads) for name in heads]
    if not chosen:
        raise ValueError("attention needs at least one head, such as '7-3'")
    own = {layer: [head for at, head in chosen if at == layer] for layer, _ in chosen}
    picture = image.convert("RGB")
    inputs = prepare(
        Checkpoint(model, processor, model.device, model.dtype, options), [asked(picture, question)]
    )
    [[placed]] = image_tokens(model.config, processor, inputs, [[picture.size]], **options)
    positions = torch.tensor(placed.of_box((0, 0, *picture.size), views))
    boxes = placed.boxes[torch.isin(placed.positions, positions)]

    def note(layer: int, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
        """Weights of the layer's chosen heads, [chosen, image tokens]."""
        if layer not in own:
            return torch.empty(0, len(positions))
        group = query.shape[1] // key.shape[1]
        kv_heads = [head // group for head in own[layer]]
        logits = last_logits(query[:, own[layer]], key[:, kv_heads], mask)
        weights = (logits * (query.shape[-1] ** -0.5 if scaling is None else scaling)).softmax(-1)
        return weights[0].cpu()[:, positions]

    with torch.inference_mode(), probe(model, note) as steps:
        output: Any = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1)
    new = output[0, inputs["input_ids"].shape[1] :].tolist()
    if new[-1] in processor.tokenizer.all_special_ids:  # the end
        new.pop()
    if not new:
        raise ValueError(f"the model answered nothing to {question!r}")
    weights = torch.stack(
        [
            torch.stack([step[layer][own[layer].index(head)] for layer, head in chosen])
            for step in steps[: len(new)]
        ]
    )
    decode = processor.tokenizer.decode
    return AttentionMaps(
        lay(weights, boxes, picture.size),
        tuple(heads),
        tuple(decode([token]) for token in new),
        decode(new),
        question,
        picture,
    )


def lay(weights: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Spread weights of tokens over a grid on the picture; their sum stays.

    Parameters
    ----------
    weights : Tensor [..., tokens]
    boxes : Tensor [tokens, 4]
        What each token sees, in pixels: left, top, right, bottom. They may overlap.
    size : (width, height)

    Returns
    -------
    Tensor [..., rows, columns]
        On cells as large as the median box.
    """
    across, down = (_shares(boxes[:, axis], boxes[:, axis + 2], size[axis]) for axis in (0, 1))
    spread = (down[:, :, None] * across[:, None]).to(weights.dtype)
    return torch.tensordot(weights, spread, dims=1)


def _shares(low: Tensor, high: Tensor, pixels: int) -> Tensor:
    """Share of each interval that lies in each cell of an axis, [intervals, cells]."""
    count = max(1, round(pixels / (high - low).median().item()))
    ends = torch.linspace(0, pixels, count + 1, dtype=low.dtype)
    inside = torch.minimum(high[:, None], ends[1:]) - torch.maximum(low[:, None], ends[:-1])
    return inside.clamp(min=0) / (high - low)[:, None]


def _head(name: str, layers: int, heads: int) -> tuple[int, int]:
    """Layer and head of ``layer-head``, if there is such a head."""
    if (found := re.fullmatch(r"(\d+)-(\d+)", str(name))) is None:
        raise ValueError(f"a head is named layer-head, such as '7-3', got {name!r}")
    layer, head = int(found[1]), int(found[2])
    if layer >= layers or head >= heads:
        raise ValueError(f"there is no head {name}: the model has {layers} layers of {heads} query heads")
    return layer, head
