"""The model in training: its losses on a batch, and the auxiliary head that is thrown away afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2VLForConditionalGeneration
from transformers.masking_utils import sdpa_mask

from sparsemm.tiny.architecture import MERGE
from sparsemm.tiny.batches import GLYPHS, Batch
from sparsemm.tiny.recipe import Stage

ATTENTION = "sparsemm_training"


def _plain_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Matmul, softmax, matmul in autocast's type: faster on CPU than SDPA at small head sizes.

    query [B, Hq, L, D], key and value [B, Hkv, L, D], attention_mask additive [B, 1, L, L] or None -> [B,
    L, Hq, D].
    """
    batch, heads, length, _ = query.shape
    groups = key.shape[1]
    rows = query.reshape(batch * groups, heads // groups * length, -1) * kwargs["scaling"]
    scores = torch.bmm(rows, key.reshape(batch * groups, key.shape[2], -1).transpose(1, 2)).view(
        batch, heads, length, -1
    )
    if attention_mask is not None:
        scores = scores + attention_mask.to(scores.dtype)
    weights = torch.softmax(scores, -1, dtype=scores.dtype).view(batch * groups, rows.shape[1], -1)
    out = torch.bmm(weights, value.reshape(batch * groups, key.shape[2], -1)).view(batch, heads, length, -1)
    return out.transpose(1, 2), None


AttentionInterface.register(ATTENTION, _plain_attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


class Reader(nn.Module):
    """The model and the auxiliary character head that training throws away."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        text: Any = model.config.text_config
        self.glyph_head = nn.Linear(text.hidden_size, 2 * (len(GLYPHS) + 1))

    def losses(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Loss terms and accuracies of one batch."""
        pages = batch.pixels.shape[0]
        grid = torch.tensor([[1, batch.grid[0] * MERGE, batch.grid[1] * MERGE]], device=batch.pixels.device)
        with torch.set_grad_enabled(stage.train_vision and torch.is_grad_enabled()):
            features = self.model.model.visual(
                batch.pixels.flatten(0, 1), grid.repeat(pages, 1)
            ).pooler_output
        found: dict[str, Tensor] = {}
        if stage.auxiliary:
            logits = self.glyph_head(features).view(-1, len(GLYPHS) + 1).float()
            target = batch.glyphs.flatten()
            # most halves of a sparse page are empty: they count less, or "empty" is all that is learned
            weight = torch.where(target > 0, 1.0, 0.3)
            found["glyph_loss"] = (
                F.cross_entropy(logits, target, reduction="none") * weight
            ).sum() / weight.sum()
            found["glyph_accuracy"] = (logits.argmax(-1) == target)[target > 0].float().mean()
        if text := batch.text:
            embeddings = self.model.get_input_embeddings()(text.input_ids)
            image = text.input_ids == self.model.config.image_token_id
            embeddings = embeddings.masked_scatter(image[..., None], features.to(embeddings.dtype))
            bias = torch.zeros(text.mask.shape, device=features.device, dtype=features.dtype)
            hidden = self.model.model.language_model(
                inputs_embeds=embeddings,
                position_ids=text.position_ids,
                attention_mask=bias.masked_fill(~text.mask, torch.finfo(bias.dtype).min),
                use_cache=False,
            ).last_hidden_state
            wanted = text.weights > 0
            logits, target, weight = (
                self.model.lm_head(hidden[wanted]).float(),
                text.labels[wanted],
                text.weights[wanted],
            )
            found["text_loss"] = (
                F.cross_entropy(logits, target, reduction="none") * weight
            ).sum() / weight.sum()
            found["text_accuracy"] = (logits.argmax(-1) == target)[weight == 1].float().mean()
        return found


def parameter_groups(reader: Reader) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Hidden matrices (for Muon) and everything else (for AdamW)."""
    matrices, others = [], []
    for name, parameter in reader.named_parameters():
        hidden = (parameter.ndim == 2 and ".layers." in name) or (".blocks." in name and parameter.ndim == 2)
        (matrices if hidden else others).append(parameter)
    return matrices, others
