"""Training of the embedded model: characters first, then reading, then both on growing pages.

The order is what makes it learn on two CPU cores. The image tower learns single characters on dense pages;
the language
model then learns to transcribe and to look values up on small pages with the tower frozen; at last
everything together, on pages up to the size that the model is used with.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2VLForConditionalGeneration
from transformers.masking_utils import sdpa_mask

from sparsemm.documents import make_page
from sparsemm.documents.page import GRIDS
from sparsemm.tiny.architecture import MERGE, build_model, build_processor
from sparsemm.tiny.batches import GLYPHS, Batch, Packer
from sparsemm.tiny.card import write_card
from sparsemm.tiny.reading import evaluate_reading

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


@dataclass(frozen=True)
class Stage:
    """One leg of the training.

    Attributes
    ----------
    steps, batch_size : int
        Optimiser steps, pages a step.
    tokens : tuple of int
        Page sizes in visual tokens; one is drawn for each step.
    lr, final_lr : float
        Learning rate at the start and the end, cosine between, after a warm-up of 50 steps.
    lookups : int
        Look-ups asked of each page.
    transcribe : float
        Share of the steps that also transcribe the page.
    auxiliary : float
        Weight of the character loss on the visual tokens.
    read : bool
        False: character loss alone, on dense pages of random characters.
    train_vision : bool
        Whether the image tower learns.
    """

    steps: int
    batch_size: int
    tokens: tuple[int, ...]
    lr: float
    final_lr: float
    lookups: int = 0
    transcribe: float = 0.0
    auxiliary: float = 0.0
    read: bool = True
    train_vision: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """What ``sparsemm train-tiny`` does; the Hydra file ``train_tiny.yaml`` holds the committed recipe.

    Attributes
    ----------
    output : str
        Folder for checkpoint, training state and log; called again, training resumes from it.
    stages : list of Stage
    preset : str
    seed : int
    device : str
    workers : int
        Processes that draw pages.
    save_seconds : float
        How often the training state is saved.
    weight_decay : float
        Of the hidden matrices.
    log_every : int
        Steps between two rows of ``log.csv``.
    evaluate : int
        Pages per font and size that the finished model reads for its card; 0: no card.
    """

    output: str
    stages: list[Stage]
    preset: str = "tiny"
    seed: int = 0
    device: str = "cpu"
    workers: int = 1
    save_seconds: float = 60.0
    weight_decay: float = 0.05
    log_every: int = 20
    evaluate: int = 256

    def __post_init__(self) -> None:
        stages = [
            s if isinstance(s, Stage) else Stage(**{**s, "tokens": tuple(s["tokens"])}) for s in self.stages
        ]
        object.__setattr__(self, "stages", stages)

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage of a global step, and the step within it."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError("past the last stage")


class PageBatches(Dataset[Batch]):
    """Step -> batch, a function of the seed: a resumed run sees what an uninterrupted one sees."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.packer = Packer()

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.config.stages)

    def __getitem__(self, step: int) -> Batch:
        stage, _ = self.config.stage_at(step)
        rng = np.random.default_rng((self.config.seed, step))
        tokens = int(rng.choice(stage.tokens))
        grid = GRIDS[tokens][rng.integers(len(GRIDS[tokens]))]
        first = (self.config.seed * len(self) + step) * 4096
        seeds = range(first, first + stage.batch_size)
        pages = [make_page(s, split="train", tokens=tokens, grid=grid, dense=not stage.read) for s in seeds]
        if not stage.read:
            return self.packer.pack_vision(pages)
        transcribe = stage.transcribe > 0 and rng.random() < stage.transcribe
        return self.packer.pack(pages, stage.lookups, transcribe, rng)


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


def learning_rate(stage: Stage, step: int) -> float:
    """Cosine from ``lr`` to ``final_lr`` after a warm-up of 50 steps."""
    cosine = (1 + math.cos(math.pi * step / stage.steps)) / 2
    return min(1.0, (step + 1) / 50) * (stage.final_lr + (stage.lr - stage.final_lr) * cosine)


def train(config: TrainConfig) -> Path:
    """Train, or resume, and write the checkpoint; returns its folder.

    The folder can be opened by the Auto classes at any time: it is written with every training state.
    """
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    device = torch.device(config.device)
    torch.set_flush_denormal(True)
    model = build_model(config.preset, seed=config.seed)
    model.set_attn_implementation(ATTENTION)
    reader = Reader(model).to(device).train()
    matrices, others = parameter_groups(reader)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=1e-3, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    start, seconds = _resume(output, config, reader, optimizers, device)
    dataset = PageBatches(config)
    steps: Iterable[Batch] = DataLoader(
        dataset, batch_size=None, sampler=range(start, len(dataset)), num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
    )  # fmt: skip
    began = saved = time.monotonic()
    bar = tqdm(total=len(dataset), initial=start, unit="step", desc="train-tiny")
    for step, batch in enumerate(steps, start=start):
        stage, stage_step = config.stage_at(step)
        batch = batch.to(device)
        rate = learning_rate(stage, stage_step)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16):
            found = reader.losses(batch, stage)
        loss = found.get("text_loss", 0.0) + stage.auxiliary * found.get("glyph_loss", 0.0)
        loss.backward()  # pyright: ignore[reportAttributeAccessIssue]
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        bar.update()
        done = step + 1 == len(dataset)
        if step % config.log_every == 0 or done:
            row = {
                "step": step,
                "seconds": round(seconds + time.monotonic() - began, 1),
                "tokens": batch.glyphs.shape[1],
            }
            values = {name: round(float(value.detach()), 4) for name, value in found.items()}
            _log(output / "log.csv", row | values)
            bar.set_postfix(values)
        if done or time.monotonic() - saved > config.save_seconds:
            saved = time.monotonic()
            _save(output, config, reader, optimizers, step + 1, seconds + saved - began)
    bar.close()
    if config.evaluate:
        model.eval().set_attn_implementation("sdpa")
        spent = seconds + time.monotonic() - began
        readings = evaluate_reading(output, n=config.evaluate, device=config.device)
        write_card(output, model, asdict(config), spent, readings)
    return output


COLUMNS: tuple[str, ...] = (
    "step",
    "seconds",
    "tokens",
    "text_loss",
    "text_accuracy",
    "glyph_loss",
    "glyph_accuracy",
)


def _log(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        if new:
            writer.writeheader()
        writer.writerow(row)


def _save(
    output: Path,
    config: TrainConfig,
    reader: Reader,
    optimizers: list[torch.optim.Optimizer],
    step: int,
    seconds: float,
) -> None:
    """Write the checkpoint and the training state; the state is replaced last and at once."""
    reader.model.save_pretrained(output)
    build_processor().save_pretrained(output)
    state = {
        "reader": reader.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
        "seconds": seconds,
        "config": json.dumps(asdict(config)),
    }
    torch.save(state, output / "training_state.tmp")
    (output / "training_state.tmp").replace(output / "training_state.pt")


def _resume(
    output: Path,
    config: TrainConfig,
    reader: Reader,
    optimizers: list[torch.optim.Optimizer],
    device: torch.device,
) -> tuple[int, float]:
    """Load the training state if there is one; returns the next step and the seconds spent so far."""
    path = output / "training_state.pt"
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, map_location=device, weights_only=True)
    reader.load_state_dict(state["reader"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    _forget_after(output / "log.csv", state["step"])
    return state["step"], state["seconds"]


def _forget_after(log: Path, step: int) -> None:
    """Drop the log's rows from ``step`` on: what came after the last saved state is computed again."""
    if not log.exists():
        return
    with log.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["step"]) < step]
    log.unlink()
    for row in rows:
        _log(log, row)
