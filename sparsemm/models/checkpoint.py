"""A model to evaluate: where its files are, what they are (fingerprint), and loading them."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import sparsemm  # noqa: F401  (registers the attention)
from sparsemm.configs import InputError, names, nearest, shipped

ATTENTION = {"text_config": "sparsemm"}
"""Only the text backbone runs our attention; the vision tower keeps its own."""

WEIGHTS = ("*.safetensors", "*.bin")
"""Files whose content is sampled when they are large."""

FILES = (
    *("config.json", "generation_config.json", "*processor*.json", "*token*.json", "vocab*", "merges.txt"),
    *("chat_template*", "*.model", "*.safetensors.index.json"),
)
"""Small files that decide what a model answers; model cards and training state are not among them."""

WHOLE = 64 * 2**20
"""Bytes of a weight file that enter the fingerprint: whole files, or `BLOCKS` blocks of larger ones."""

BLOCKS = 256


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its processor, ready to generate."""

    model: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype


def locate(pretrained: str) -> Path:
    """Folder of a checkpoint: the embedded one (``tiny``), a local folder, or the hub's snapshot.

    The latter is downloaded if need be.

    Raises
    ------
    InputError
        If there is no such checkpoint.
    """
    if pretrained == "tiny":
        folder = shipped("tiny/checkpoint")
    elif (folder := Path(pretrained)).exists():
        pass
    elif pretrained.count("/") == 1 and not pretrained.startswith((".", "/", "~")):
        folder = _from_hub(pretrained)
    else:
        raise InputError(
            f"no model {pretrained!r}: neither a folder nor a hub name; {nearest(pretrained, names('model'))}"
        )
    if not (folder / "config.json").is_file():
        raise InputError(f"no checkpoint in {folder}: there is no config.json")
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, ignore_patterns=["*.bin", "*.pth", "*.gguf", "original/*"]))
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"no folder {name!r}, and the hub gave none: {reason}") from error


def fingerprint(folder: Path) -> str:
    """Sixteen hex digits that change when a checkpoint's weights, configuration or processor change.

    Independent of the folder's place. Weight files above 64 MiB are sampled: size, and 256 even blocks.
    """
    digest = hashlib.sha256()
    weights = {path for pattern in WEIGHTS for path in folder.glob(pattern)}
    for path in sorted(weights | {path for pattern in FILES for path in folder.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}:".encode())
        with path.open("rb") as file:
            if size <= WHOLE:
                digest.update(file.read())
                continue
            for block in range(BLOCKS):
                file.seek(block * (size - WHOLE // BLOCKS) // (BLOCKS - 1))
                digest.update(file.read(WHOLE // BLOCKS))
    return digest.hexdigest()[:16]


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.lru_cache(maxsize=1)
def load(folder: Path, dtype: str, device: str) -> Checkpoint:
    """Load a checkpoint once per process; a second model replaces the first.

    Parameters
    ----------
    folder : Path
        What `locate` gave.
    dtype : str
        ``float32``, ``bfloat16``, ``float16``, or ``auto`` for the checkpoint's own.
    device : str
        A torch device.

    Raises
    ------
    InputError
        Unknown dtype or device.
    """
    _check_dtype(dtype)
    place = _device(device)
    model = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, attn_implementation=dict(ATTENTION)
    )
    model.to(place).eval()  # pyright: ignore[reportArgumentType]
    processor = AutoProcessor.from_pretrained(folder)
    return Checkpoint(model, processor, place, model.dtype)


def without_weights(folder: Path, dtype: str, device: str) -> Checkpoint:
    """A checkpoint as `load` gives it, but its model has no weights: for planning.

    Raises
    ------
    InputError
        As `load`.
    """
    _check_dtype(dtype)
    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model: Any = AutoModelForImageTextToText.from_config(config)
    number: torch.dtype = model.dtype if dtype == "auto" else getattr(torch, dtype)
    return Checkpoint(model, AutoProcessor.from_pretrained(folder), _device(device), number)


def _check_dtype(dtype: str) -> None:
    if dtype not in (known := ("auto", "float32", "bfloat16", "float16")):
        raise InputError(f"unknown dtype {dtype!r}; {nearest(dtype, known)}")


def _device(device: str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
