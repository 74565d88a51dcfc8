"""A model's files: where they are, and what they are (fingerprint)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsemm.configs import EMBEDDED, InputError, names, nearest, shipped
from sparsemm.models.untrusted import check_folder

WEIGHTS = ("*.safetensors", "*.bin")
"""Files whose content is sampled when they are large."""

FILES = (
    *("config.json", "generation_config.json", "*processor*.json", "*token*.json", "vocab*", "merges.txt"),
    *("chat_template*", "*.model", "*.safetensors.index.json", "*.py"),
)
"""Small files that decide what a model answers; model cards and training state are not among them."""

WHOLE = 64 * 2**20
"""Bytes of a weight file that enter the fingerprint: whole files, or `BLOCKS` blocks of larger ones."""

BLOCKS = 256


def locate(pretrained: str) -> Path:
    """Folder of a checkpoint: the embedded one (``tiny``), a local folder, or the hub's snapshot.

    The latter is downloaded if need be.

    Raises
    ------
    InputError
        If there is no such checkpoint, or it is not ordinary files in one folder.
    """
    _check_pretrained(pretrained)
    if pretrained == EMBEDDED:
        folder = shipped("tiny/checkpoint")
    elif (folder := Path(pretrained)).exists():
        pass
    elif pretrained.count("/") == 1 and not pretrained.startswith((".", "/", "~")):
        folder = _from_hub(pretrained)
    else:
        near = nearest(pretrained, known := names("model"))
        if pretrained in known:
            near = f"a configuration is chosen by model={pretrained}"
        raise InputError(f"no model {pretrained!r}: neither a folder nor a hub name; {near}")
    if not (folder / "config.json").is_file():
        raise InputError(f"no checkpoint in {folder}: there is no config.json")
    check_folder(folder)
    return folder


def check_settings(model: Any, device: Any) -> None:
    """Look whether a model's settings are of the kinds that they must have; nothing is looked for.

    Raises
    ------
    InputError
        The first that is not.
    """
    if not isinstance(model, Mapping):
        raise InputError(f"model holds the options of a model; choose one by model=NAME, got {model!r}")
    _check_pretrained(model["pretrained"])
    if not isinstance(model["name"], str) or not model["name"]:
        raise InputError(f"model.name must be a name, got {model['name']!r}")
    for name, value, kinds, what in (
        ("device", device, str, "a device such as cpu or cuda"),
        ("model.head_scores", model["head_scores"], str | int, "a file"),
        ("model.images_kwargs", model["images_kwargs"], Mapping, "options {NAME: VALUE}"),
        ("model.quantization", model["quantization"], Mapping, "options {NAME: VALUE}"),
        ("model.device_map", model["device_map"], str | Mapping, "auto, or {MODULE: DEVICE}"),
        ("model.ocr_prompt", model["ocr_prompt"], str, "a text"),
    ):
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            raise InputError(f"{name} must be {what}, or null, got {value!r}")


def _check_pretrained(pretrained: Any) -> None:
    if not isinstance(pretrained, str) or not pretrained:
        raise InputError(f"model.pretrained must be a folder or a name on the hub, got {pretrained!r}")


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
        if not path.is_file():
            continue
        digest.update(f"{path.name}:".encode())
        sample(digest, path)
    return digest.hexdigest()[:16]


def sample(digest: Any, path: Path) -> None:
    """Add a file's size and content to a hash of hashlib: all of it, or even blocks of a large one.

    The last block is that of the file's end, where a parquet file describes all of its parts.
    """
    size = path.stat().st_size
    digest.update(f"{size}:".encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
            return
        for block in range(BLOCKS):
            file.seek(block * (size - WHOLE // BLOCKS) // (BLOCKS - 1))
            digest.update(file.read(WHOLE // BLOCKS))
