"""Loading a model and its processor as a file of ``eval_configs/model`` describes them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PretrainedConfig,
)
from transformers.utils import logging

import sparsemm  # noqa: F401  (registers the attention)
from sparsemm.configs import InputError, nearest
from sparsemm.models.checkpoint import fingerprint, locate

ATTENTION = {"text_config": "sparsemm"}
"""Only the text backbone runs our attention; the vision tower keeps its own."""

ANSWERING = ("images_kwargs", "quantization", "trust_remote_code")
"""Optional settings of a model on which its answers depend, beside dtype."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model with its processor, ready to generate.

    Attributes
    ----------
    images_kwargs
        Options that its image processor is to be called with.
    """

    model: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype
    images_kwargs: Mapping[str, Any] = field(default_factory=dict)


def load(model: Mapping[str, Any], device: str | None = None) -> Checkpoint:
    """Load a model once per process; another, or other files or settings of this one, replaces it.

    Parameters
    ----------
    model : mapping
        ``pretrained``: what `locate` takes. Optional: ``dtype`` (``float32``, ``bfloat16``, ``float16``, or
        ``auto`` for the checkpoint's own, the default), ``images_kwargs`` (options for its image processor,
        such as ``{do_pan_and_scan: true}``), ``quantization`` (options of ``BitsAndBytesConfig``),
        ``device_map`` (as transformers takes it; then `device` is not used) and ``trust_remote_code``
        (`trusts`).
    device : str, optional
        A torch device; default: `default_device`.

    Raises
    ------
    InputError
        Unknown dtype, device or option; files that are damaged, or do not hold all of the model; code of
        the checkpoint's own that is not trusted.
    """
    dtype = _dtype_name(model)
    _check_quantization(model)
    trusts(model)
    settings = {name: model.get(name) for name in (*ANSWERING, "device_map")}
    folder = locate(model["pretrained"])
    place = torch_device(device or default_device())
    checkpoint = _load(folder, fingerprint(folder), dtype, place, json.dumps(settings, sort_keys=True))
    _check_images_kwargs(checkpoint)
    return checkpoint


def check(model: Mapping[str, Any], device: str) -> None:
    """Look, without loading anything, whether a model's settings are some and the device is there.

    Raises
    ------
    InputError
        If not.
    """
    _dtype_name(model)
    _check_quantization(model)
    trusts(model)
    torch_device(device)


@functools.lru_cache(maxsize=1)
def _load(folder: Path, _fingerprint: str, dtype: str, place: torch.device, settings_json: str) -> Checkpoint:
    settings = json.loads(settings_json)
    trust = trusts(settings)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": dict(ATTENTION)}
    if settings["quantization"]:
        with _one_line(folder):
            options["quantization_config"] = BitsAndBytesConfig(**settings["quantization"])
    if settings["device_map"]:
        options["device_map"] = settings["device_map"]
    model = load_model(AutoModelForImageTextToText, folder, trust, **options)
    processor = _processor(folder, trust)
    if not settings["device_map"] and not settings["quantization"]:
        model.to(place)
    return Checkpoint(model.eval(), processor, model.device, model.dtype, settings["images_kwargs"] or {})


def load_model(auto: Any, folder: Path, trust_remote_code: bool, **options: Any) -> Any:
    """A model with all of its weights, by one of transformers' Auto classes; `options` are what that takes.

    Raises
    ------
    InputError
        Files that are damaged, lack weights, or hold weights of other shapes than the configuration's.
    """
    with _one_line(folder):
        model, report = auto.from_pretrained(
            folder,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **options,
        )
    for name, held, wanted in sorted(report["mismatched_keys"]):
        raise InputError(
            f"the checkpoint in {folder} does not fit its own config.json: the weights {name} have the shape "
            f"{list(held)}, and {list(wanted)} is wanted"
        )
    if lacking := sorted(report["missing_keys"]):  # transformers would draw them at random
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(f"the checkpoint in {folder} is not whole: it lacks the weights {lacking[0]}{more}")
    return model


def _processor(folder: Path, trust: bool) -> Any:
    """The processor, after a check that it has a tokenizer, and a chat template that can be filled in."""
    with _one_line(folder):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust)
    if not getattr(processor, "chat_template", None):
        raise InputError(f"the checkpoint in {folder} has no chat template (chat_template.jinja)")
    if len(processor.tokenizer) < 2:  # where its file is missing, transformers makes an empty one
        raise InputError(f"the checkpoint in {folder} has no tokenizer (tokenizer.json)")
    question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    try:
        processor.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template may raise whatever it likes
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"the chat template of the checkpoint in {folder} fails: {reason}") from error
    return processor


def _check_images_kwargs(checkpoint: Checkpoint) -> None:
    """Refuse an option that the image processor does not have: transformers would not heed it.

    Raises
    ------
    InputError
        With the nearest options that there are.
    """
    images = checkpoint.processor.image_processor
    known = sorted(images.valid_kwargs.__annotations__)
    for name in checkpoint.images_kwargs:
        if name not in known:
            raise InputError(
                f"model.images_kwargs: {type(images).__name__} has no option {name!r}; {nearest(name, known)}"
            )


def _check_quantization(model: Mapping[str, Any]) -> None:
    """Refuse an option that `BitsAndBytesConfig` does not have: it would only log that it is unused.

    Raises
    ------
    InputError
        With the nearest options that there are.
    """
    known = [
        name for name in signature(BitsAndBytesConfig.__init__).parameters if name not in ("self", "kwargs")
    ]
    for name in model.get("quantization") or {}:
        if name not in known:
            raise InputError(f"model.quantization: there is no option {name!r}; {nearest(name, known)}")


def trusts(model: Mapping[str, Any]) -> bool:
    """Whether Python code that comes with a model's files may be run: ``trust_remote_code``, default False.

    It is said to transformers in every loading call, which would else ask on the terminal.

    Raises
    ------
    InputError
        If it is neither true nor false.
    """
    value = model.get("trust_remote_code")
    if not isinstance(value, bool | None):
        raise InputError(f"model.trust_remote_code must be true or false, got {value!r}")
    return bool(value)


def read_config(folder: Path, trust_remote_code: bool = False) -> PretrainedConfig:
    """A checkpoint's configuration.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    with _one_line(folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def without_weights(model: Mapping[str, Any], device: str) -> Checkpoint:
    """A checkpoint as `load` gives it, but its model has no weights: for planning.

    Raises
    ------
    InputError
        As `load`.
    """
    dtype, trust, folder = _dtype_name(model), trusts(model), locate(model["pretrained"])
    config = read_config(folder, trust)
    with torch.device("meta"), _one_line(folder):
        empty: Any = AutoModelForImageTextToText.from_config(config, trust_remote_code=trust)
    number: torch.dtype = empty.dtype if dtype == "auto" else getattr(torch, dtype)
    options = model.get("images_kwargs") or {}
    checkpoint = Checkpoint(empty, _processor(folder, trust), torch_device(device), number, options)
    _check_images_kwargs(checkpoint)
    return checkpoint


def device_name(device: torch.device) -> str:
    """``cpu``, or the accelerator's own name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def default_device() -> str:
    """``cuda`` where there is one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """Say in one line why a checkpoint cannot be loaded, in the place of transformers' own report."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # transformers and tokenizers raise many kinds for broken files
        raise InputError(f"cannot load the checkpoint in {folder}: {_reason(error, folder)}") from error
    finally:
        logging.set_verbosity(before)


def check_weights(folder: Path) -> None:
    """Look, by their beginnings, whether a checkpoint's weight files are whole.

    Raises
    ------
    InputError
        One is not.
    """
    if reason := _broken_weights(folder):
        raise InputError(f"cannot load the checkpoint in {folder}: {reason}")


def _reason(error: Exception, folder: Path) -> str:
    """Why a checkpoint cannot be loaded, in one line."""
    if broken := _broken_weights(folder):
        return broken
    text = str(error).strip()
    if "trust_remote_code=True" in text:
        return "it needs Python code that comes with it, which is run only with model.trust_remote_code=true"
    if "backend tokenizer" in text:
        return "it has no tokenizer that can be read (tokenizer.json)"
    return next(iter(text.splitlines()), type(error).__name__)


def _broken_weights(folder: Path) -> str | None:
    """The first weight file that is no whole safetensors file: the library's own message names none."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError as error:
            return f"{path.name} is damaged ({error})"
    return None


def _dtype_name(model: Mapping[str, Any]) -> str:
    dtype = model.get("dtype") or "auto"
    if dtype not in (known := ("auto", "float32", "bfloat16", "float16")):
        raise InputError(f"unknown dtype {dtype!r}; {nearest(dtype, known)}")
    return dtype


def torch_device(device: str) -> torch.device:
    """A device by name.

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
