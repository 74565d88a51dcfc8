"""Head scores and their file: per-image hits as safetensors, a JSON card of their making beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sparsemm.configs import recorded
from sparsemm.heads.released import read_released
from sparsemm.recording import write_atomically

if TYPE_CHECKING:
    from sparsemm.methods import ModelShape

SCHEMA_VERSION = 1


@dataclass(frozen=True, eq=False)
class HeadScores:
    """Visual relevance of every query head.

    Attributes
    ----------
    hits : [images, layers, query heads] float32
        What each image added to each head's score.
    card : dict
        Model, rule, number of images, seeds, versions; free of paths and times.
    """

    hits: np.ndarray
    card: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.hits.ndim != 3 or 0 in self.hits.shape:
            raise ValueError(
                f"head scores must be [images, layers, query heads], got shape {list(self.hits.shape)}"
            )
        if not np.isfinite(self.hits).all() or (self.hits < 0).any() or not self.hits.any():
            raise ValueError("head scores must be finite, not negative and not all zero")

    @cached_property
    def scores(self) -> np.ndarray:
        """[layers, query heads] float64: mean over the images, not normalised."""
        return self.hits.mean(axis=0, dtype=np.float64)

    def kv_head_scores(self, shape: ModelShape) -> np.ndarray:
        """Return the scores of KV heads, [layers, Hkv] float64 that sum to 1.

        A KV head's score is the sum over the query heads that share it, as `sparsemm.SparseMM` allocates by.

        Raises
        ------
        ValueError
            If the scores are not of the model's shape.
        """
        import torch  # here, because scores are also read, compared and drawn where no model is loaded

        from sparsemm.methods.head_scored import sum_groups

        return sum_groups(torch.from_numpy(self.scores), shape).numpy()

    def check_model(self, fingerprint: str) -> None:
        """Refuse a model other than the one that was measured, if the card says which that was.

        Raises
        ------
        ValueError
            One line.
        """
        measured = self.card.get("fingerprint", fingerprint)
        if measured != fingerprint:
            raise ValueError(
                f"they were measured on another model ({self.card.get('model')}, fingerprint {measured}; "
                f"this model's is {fingerprint}): measure this one's (sparsemm heads)"
            )

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (.safetensors) and its card (.json), each beside and then renamed; returns the path.

        Raises
        ------
        ValueError
            If the file name does not end with ``.safetensors``.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"head scores are saved as .safetensors, got {path.name!r}")
        own = {"schema_version": SCHEMA_VERSION, "shape": list(self.hits.shape)}
        card = {**own, **self.card, **own}  # a card that was loaded may say the shape of other hits
        text, hits = (
            json.dumps(recorded(card), indent=2) + "\n",
            np.ascontiguousarray(self.hits, dtype=np.float32),
        )
        write_atomically(path.with_suffix(".json"), lambda beside: beside.write_text(text, encoding="utf-8"))
        write_atomically(path, lambda beside: save_file({"hits": hits}, beside))
        return path

    @classmethod
    def load(cls, path: str | Path) -> HeadScores:
        """Read a file written by `save`, or the JSON that the paper's authors released.

        The released form is ``{"layer-head": [numbers]}``; a head's score is the mean of its numbers.

        Raises
        ------
        FileNotFoundError
            The file, or the card beside it, is missing.
        ValueError
            Not such a file, an incomplete one, or values that are not finite and not negative.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no head scores at {path}")
        try:
            if path.suffix == ".json":
                means = read_released(path.read_text(encoding="utf-8"))
                return cls(means[None], {"rule": "released"})
            hits = load_file(path).get("hits")
            if hits is None:
                raise ValueError("it holds no tensor 'hits'")
            card_path = path.with_suffix(".json")
            if not card_path.is_file():
                raise FileNotFoundError(f"{path} has no card beside it: {card_path.name}")
            card = json.loads(card_path.read_text(encoding="utf-8"))
            _check_card(card, card_path.name, hits)
            return cls(hits, card)
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{path} holds no usable head scores: {error}") from error

    @classmethod
    def of(cls, given: HeadScores | str | Path) -> HeadScores:
        """Scores as they are, or those of a file; see `load`."""
        return given if isinstance(given, HeadScores) else cls.load(given)


def _check_card(card: Any, name: str, hits: np.ndarray) -> None:
    """Refuse a card that is none, is newer than this code, or belongs to other hits."""
    if not isinstance(card, dict):
        raise ValueError(f"its card {name} is no JSON object")
    if card.get("schema_version", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise ValueError(
            f"its card {name} has schema_version {card['schema_version']}, "
            f"this sparsemm reads {SCHEMA_VERSION}"
        )
    if card.get("shape", list(hits.shape)) != list(hits.shape):
        raise ValueError(
            f"its card {name} describes other scores: shape {card['shape']}, the file's is {list(hits.shape)}"
        )
