"""The recipe: what is trained, in which order, how fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

KIND_SHARES = {"form": 0.4, "receipt": 0.15, "table": 0.15, "chart": 0.15, "sign": 0.15}
"""How often each kind of page is drawn in training."""


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
        Questions asked of each page.
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
    """What ``sparsemm train-tiny`` does; the files of ``eval_configs/preset/`` hold the recipes.

    Attributes
    ----------
    output : str
        Folder for checkpoint, training state and log; called again, training resumes from it.
    stages : list of Stage
    preset : str
    start : str, optional
        Checkpoint of the same widths to start from (`sparsemm.tiny.growth`); default: random weights.
    seed : int
    device : str
    workers : int
        Processes that draw pages.
    save_seconds : float
        How often the training state is saved.
    max_seconds : float, optional
        Stop after so long, resumable; default: when the recipe is done.
    weight_decay : float
        Of the hidden matrices.
    log_every : int
        Steps between two rows of ``log.csv``.
    evaluate : int
        Pages per size, font and kind that the finished model reads for its card; 0: no card.
    """

    output: str
    stages: list[Stage]
    preset: str = "tiny"
    start: str | None = None
    seed: int = 0
    device: str = "cpu"
    workers: int = 1
    save_seconds: float = 60.0
    max_seconds: float | None = None
    weight_decay: float = 0.05
    log_every: int = 20
    evaluate: int = 128

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


def learning_rate(stage: Stage, step: int) -> float:
    """Cosine from ``lr`` to ``final_lr`` after a warm-up of 50 steps."""
    cosine = (1 + math.cos(math.pi * step / stage.steps)) / 2
    return min(1.0, (step + 1) / 50) * (stage.final_lr + (stage.lr - stage.final_lr) * cosine)
