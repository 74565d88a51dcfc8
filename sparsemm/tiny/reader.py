"""The model in training: its losses on a batch, and the auxiliary head that is thrown away afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2VLForConditionalGeneration

from sparsemm.tiny.architecture import MERGE
from sparsemm.tiny.attention import ATTENTION
from sparsemm.tiny.batches import Batch
from sparsemm.tiny.glyphs import GLYPHS, SLOTS
from sparsemm.tiny.recipe import Stage


class Reader(nn.Module):
    """The model and the auxiliary character head that training throws away."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        super().__init__()
        self.model = model
        model.set_attn_implementation(ATTENTION)
        text: Any = model.config.text_config
        self.glyph_head = nn.Linear(text.hidden_size, SLOTS * (len(GLYPHS) + 1))

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
            # most stripes of a sparse page are empty: they count less, or "empty" is all that is learned
            weight = torch.where(target > 0, 1.0, 0.3)
            found["glyph_loss"] = _weighted(logits, target, weight)
            found["glyph_accuracy"] = (logits.argmax(-1) == target)[target > 0].float().mean()
        if text := batch.text:
            embeddings = self.model.get_input_embeddings()(text.input_ids)
            image = text.input_ids == self.model.config.image_token_id
            embeddings = embeddings.masked_scatter(image[..., None], features.to(embeddings.dtype))
            masks: Any = {"full_attention": None}  # the sections say who sees whom
            hidden = self.model.model.language_model(
                inputs_embeds=embeddings,
                position_ids=text.position_ids,
                attention_mask=masks,
                use_cache=False,
                sections=text.sections,
            ).last_hidden_state
            wanted = text.weights > 0
            logits, target = self.model.lm_head(hidden[wanted]).float(), text.labels[wanted]
            weight = text.weights[wanted]
            found["text_loss"] = _weighted(logits, target, weight)
            found["text_accuracy"] = (logits.argmax(-1) == target)[weight == 1].float().mean()
        return found


def _weighted(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean cross entropy; logits [n, classes], target and weight [n]."""
    return (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()


def parameter_groups(reader: Reader) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Hidden matrices (for Muon) and everything else (for AdamW)."""
    matrices, others = [], []
    for name, parameter in reader.named_parameters():
        hidden = (parameter.ndim == 2 and ".layers." in name) or (".blocks." in name and parameter.ndim == 2)
        (matrices if hidden else others).append(parameter)
    return matrices, others
