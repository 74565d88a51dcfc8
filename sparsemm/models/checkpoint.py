"""A model to evaluate: where its files are, what they are (fingerprint), and loading them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PretrainedConfig
from transformers.utils import logging

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


def device_name(device: torch.device) -> str:
    """``cpu``, or the accelerator's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load(folder: Path, dtype: str, device: str) -> Checkpoint:
    """Load a checkpoint once per process; a second model, or other files of this one, replace it.

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
        Unknown dtype or device; files that are damaged, or do not hold all of the model.
    """
    _check_dtype(dtype)
    return _load(folder, fingerprint(folder), dtype, _device(device))


@functools.lru_cache(maxsize=1)
def _load(folder: Path, _fingerprint: str, dtype: str, place: torch.device) -> Checkpoint:
    with _one_line(folder):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, attn_implementation=dict(ATTENTION), output_loading_info=True
        )
        processor = AutoProcessor.from_pretrained(folder)
    model, report = loaded
    if lacking := sorted(report["missing_keys"]):  # transformers would draw them at random
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(f"the checkpoint in {folder} is not whole: it lacks the weights {lacking[0]}{more}")
    if not processor.chat_template:
        raise InputError(f"the checkpoint in {folder} has no chat template (chat_template.jinja)")
    if len(processor.tokenizer) < 2:  # where its file is missing, transformers makes an empty one
        raise InputError(f"the checkpoint in {folder} has no tokenizer (tokenizer.json)")
    model.to(place).eval()
    return Checkpoint(model, processor, place, model.dtype)


def read_config(folder: Path) -> PretrainedConfig:
    """A checkpoint's configuration.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    with _one_line(folder):
        return AutoConfig.from_pretrained(folder)


@contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """Say in one line why a checkpoint cannot be loaded, in the place of transformers' own report."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # transformers and tokenizers raise many kinds for broken files
        reason = _broken_weights(folder) or next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"cannot load the checkpoint in {folder}: {reason}") from error
    finally:
        logging.set_verbosity(before)


def _broken_weights(folder: Path) -> str | None:
    """The first weight file that is no whole safetensors file: the library's own message names none."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            return f"{path.name} is damaged ({error})"
    return None


def without_weights(folder: Path, dtype: str, device: str) -> Checkpoint:
    """A checkpoint as `load` gives it, but its model has no weights: for planning.

    Raises
    ------
    InputError
        As `load`.
    """
    _check_dtype(dtype)
    config = read_config(folder)
    with torch.device("meta"), _one_line(folder):
        model: Any = AutoModelForImageTextToText.from_config(config)
        processor = AutoProcessor.from_pretrained(folder)
    number: torch.dtype = model.dtype if dtype == "auto" else getattr(torch, dtype)
    return Checkpoint(model, processor, _device(device), number)


def _check_dtype(dtype: str) -> None:
    if dtype not in (known := ("auto", "float32", "bfloat16", "float16")):
        raise InputError(f"unknown dtype {dtype!r}; {nearest(dtype, known)}")


def _device(device: str) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
