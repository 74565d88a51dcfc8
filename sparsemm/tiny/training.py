"""Training of the embedded model: characters first, then reading, then both on growing pages.

The order is what makes it learn on two CPU cores. The image tower learns single characters on dense pages;
the language model then learns to transcribe and to look values up on small pages with the tower frozen; at
last everything together, on pages up to the size that the model is used with.
"""

from __future__ import annotations

import copy
import csv
import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from sparsemm.configs import output_folder
from sparsemm.documents import make_page
from sparsemm.documents.page import GRIDS
from sparsemm.tiny.architecture import PRESETS, build_model, build_processor
from sparsemm.tiny.batches import Batch, Packer
from sparsemm.tiny.card import write_card
from sparsemm.tiny.growth import start_from
from sparsemm.tiny.reader import Reader, parameter_groups
from sparsemm.tiny.reading import evaluate_reading
from sparsemm.tiny.recipe import KIND_SHARES, TrainConfig, learning_rate


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
        kinds = rng.choice(list(KIND_SHARES), stage.batch_size, p=list(KIND_SHARES.values())).tolist()
        pages = [
            make_page(s, kind=kind, split="train", tokens=tokens, grid=grid, dense=not stage.read)
            for s, kind in zip(seeds, kinds, strict=True)
        ]
        if not stage.read:
            return self.packer.pack_vision(pages)
        transcribe = stage.transcribe > 0 and rng.random() < stage.transcribe
        return self.packer.pack(pages, stage.lookups, transcribe, rng)


def train(config: TrainConfig) -> Path:
    """Train, or resume, and write the checkpoint; returns its folder.

    The folder can be opened by the Auto classes at any time: it is written with every training state.
    """
    # of the whole process: denormals cost a CPU dearly here, but other code may need them
    torch.set_flush_denormal(True)
    try:
        return _train(config)
    finally:
        torch.set_flush_denormal(False)


def _train(config: TrainConfig) -> Path:
    output = output_folder(config.output)
    output.mkdir(parents=True, exist_ok=True)
    device = torch.device(config.device)
    model = build_model(config.preset, seed=config.seed)
    if config.start and not (output / "training_state.pt").exists():
        start_from(model, config.start)
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
        enough = config.max_seconds is not None and time.monotonic() - began > config.max_seconds
        if done or enough or time.monotonic() - saved > config.save_seconds:
            saved = time.monotonic()
            _save(output, config, reader, optimizers, step + 1, seconds + saved - began)
        if enough and not done:
            bar.close()
            print(f"stopped after {step + 1} of {len(dataset)} steps; the same command goes on")
            return output
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
    stored = PRESETS[config.preset].stored
    model: Any = reader.model if stored == torch.float32 else copy.deepcopy(reader.model)
    model.to(stored).save_pretrained(output)
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
