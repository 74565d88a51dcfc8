"""Does compression work with a model? One prompt through every part of the engine, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.filesize import decimal
from torch import Tensor
from transformers import DynamicCache
from transformers.utils import logging

from sparsemm.cache import RaggedCache, fan_out
from sparsemm.cache.checks import check_backend
from sparsemm.cache.greedy import GREEDY, NOT_FINITE
from sparsemm.cache.layer import RaggedLayer
from sparsemm.cache.layout import Backend
from sparsemm.cache.stock import cache_argument
from sparsemm.configs import InputError
from sparsemm.documents import make_page
from sparsemm.documents.opening import read_picture
from sparsemm.evaluation.methods import build_method
from sparsemm.methods import FullKV, KVMethod, check_method
from sparsemm.methods.base import MOST
from sparsemm.models import image_tokens
from sparsemm.models.checkpoint import check_settings, fingerprint, locate
from sparsemm.models.loading import ATTENTION, Checkpoint, device_name, load
from sparsemm.models.prompts import asked, prepare

PAGE_SEED = 3_000_000
"""A page of split "eval" that no task and no head identification draws."""

TOLERANCE = 1e-4
"""Largest difference of logits that other kernels may make in float32; other number formats: same tokens."""


@dataclass(frozen=True)
class Finding:
    """One line of the examination: what was looked at, what was found, whether that is as it should be."""

    name: str
    text: str
    good: bool = True


def run(config: Mapping[str, Any]) -> list[Finding]:
    """``sparsemm doctor``: examine the model of a configuration (``eval_configs/doctor.yaml``).

    Raises
    ------
    InputError, ValueError
        Wrong options; a model that cannot be compressed right, with the reason.
    """
    logging.disable_progress_bar()
    count = config["max_new_tokens"]
    if not isinstance(count, int) or isinstance(count, bool) or count < 2:
        raise InputError(f"max_new_tokens must be an integer of at least 2, got {count!r}")
    if count > MOST:
        raise InputError(f"max_new_tokens must be at most {MOST}, got {count}")
    check_settings(config["model"], config["device"])
    for name, what in (("image", "a picture's file"), ("prompt", "a text")):
        if not isinstance(config[name], str | None):
            raise InputError(f"{name} must be {what}, or null, got {config[name]!r}")
    if not config.get("methods"):
        raise InputError("no method is chosen (method=[adakv])")
    if config["backend"] is not None:
        check_backend(config["backend"])
    model, image = config["model"], _picture(config["image"])
    mark = fingerprint(locate(model["pretrained"]))
    methods: dict[str, KVMethod] = {
        name: build_method(
            parameters,
            budget=config["budget"],
            window=model["window"],
            head_scores=model["head_scores"],
            fingerprint=mark,
        )
        for name, parameters in config["methods"].items()
    }
    checkpoint = load(model, config["device"])
    prompt = config["prompt"] or model["ocr_prompt"]
    inputs = prepare(checkpoint, [asked(image, prompt)])
    patient = Patient(checkpoint, inputs, count, config["backend"])
    return [
        _described(model["name"], checkpoint),
        _pixels(checkpoint, inputs, image.size),
        *patient.architecture(),
        patient.equality(),
        *(patient.compression(name, method) for name, method in methods.items()),
        patient.fanout(list(methods.values())),
    ]


class Patient:
    """A model and one prompt.

    Parameters
    ----------
    checkpoint : Checkpoint
    inputs : mapping
        What its processor gave for one prompt.
    max_new_tokens : int
        Tokens to generate with each cache.
    backend : str, optional
        How they attend where the prompt was compressed; default: `RaggedCache`'s.
    """

    def __init__(
        self, checkpoint: Checkpoint, inputs: Any, max_new_tokens: int, backend: Backend | None = None
    ) -> None:
        self.model, self.inputs, self.max_new_tokens = checkpoint.model, inputs, max_new_tokens
        self.backend: Backend | None = backend
        self.length: int = inputs["input_ids"].shape[1]
        self._tokens: list[list[int]] = []  # of each method examined

    def architecture(self) -> list[Finding]:
        """Which layers can be compressed, and the sizes of their heads."""
        cache = RaggedCache(self.model.config, FullKV())
        others = [type(layer).__name__ for layer in cache.layers if not isinstance(layer, RaggedLayer)]
        kinds = ", ".join(f"{others.count(name)} {name}" for name in dict.fromkeys(others))
        shape = cache.settings.shape
        return [
            Finding(
                "layers",
                f"{shape.num_hidden_layers} of {len(cache.layers)} compress (full attention)"
                + (f"; kept as they are: {kinds}" if kinds else ""),
            ),
            Finding(
                "heads",
                f"{shape.num_attention_heads} query, {shape.num_key_value_heads} KV, "
                f"head_dim {shape.head_dim}",
            ),
        ]

    def equality(self) -> Finding:
        """FullKV in this engine against transformers' own cache and attention."""
        ours, mine = self._generate(RaggedCache(self.model.config, FullKV()))
        self.model.set_attn_implementation({"text_config": "sdpa"})
        try:
            theirs, other = self._generate(DynamicCache(config=self.model.config))
        finally:
            self.model.set_attn_implementation(dict(ATTENTION))
        steps = f"prompt and {len(ours)} tokens"
        if not bool(other.isfinite().all()):
            return Finding("FullKV", f"without it too, {NOT_FINITE}", good=False)
        if ours != theirs:
            return Finding("FullKV", "other tokens than with transformers' own cache", good=False)
        if torch.equal(mine, other):
            return Finding("FullKV", f"equal to transformers' own cache to the bit ({steps})")
        apart = (mine - other).abs().max().item()
        good = self.model.dtype != torch.float32 or apart <= TOLERANCE
        return Finding("FullKV", f"same tokens; logits up to {apart:.1e} from transformers' ({steps})", good)

    def compression(self, name: str, method: KVMethod) -> Finding:
        """A run with real eviction: what it was to keep, what it kept, and every method's rules."""
        cache = RaggedCache(
            self.model.config, method, max_new_tokens=self.max_new_tokens, backend=self.backend
        )
        tokens, logits = self._generate(cache)
        self._tokens.append(tokens)
        try:
            check_method(method, cache.settings.shape)
        except ValueError as error:
            return Finding(name, str(error), good=False)
        stats = cache.stats()
        nominal = method.budget if method.evicts else self.length
        wanted = f"{nominal:g} of the prompt" if isinstance(nominal, float) else f"{nominal} tokens"
        text = (
            f"budget {wanted}; realised {stats.realised_budget:.2f} of {self.length}; "
            f"{decimal(stats.kv_bytes - stats.slack_bytes)} of {decimal(stats.full_kv_bytes)}; "
            f"decode backend {cache.compressible_layers[0].backend}"
        )
        if method.evicts and not stats.tokens_evicted:
            return Finding(name, f"{text}; nothing was evicted: choose a smaller budget", good=False)
        if not bool(logits.isfinite().all()):
            return Finding(name, f"{text}; logits are not finite", good=False)
        return Finding(name, text)

    def fanout(self, methods: list[KVMethod]) -> Finding:
        """The engine of sweeps, which evicts nothing and hides instead, against real eviction."""
        try:
            result = fan_out(self.model, self.inputs, methods, max_new_tokens=self.max_new_tokens)
        except ValueError as error:
            return Finding("fan-out", f"not possible, so `sparsemm sweep` cannot run: {error}", good=False)
        same = [texts[0] for texts in result.tokens] == self._tokens
        # In half precision sums in another order may now and then make another token the largest.
        good = same or self.model.dtype != torch.float32
        return Finding("fan-out", f"{'the same' if same else 'OTHER'} tokens as with real eviction", good)

    @torch.inference_mode()
    def _generate(self, cache: Any) -> tuple[list[int], Tensor]:
        """New tokens, and the logits of every step, [steps, vocabulary] float32."""
        output = self.model.generate(
            **self.inputs,
            **cache_argument(cache),
            max_new_tokens=self.max_new_tokens,
            return_dict_in_generate=True,
            output_logits=True,
            **GREEDY,
        )
        return output.sequences[0, self.length :].tolist(), torch.cat(output.logits).float()


def _described(name: str, checkpoint: Checkpoint) -> Finding:
    model = checkpoint.model
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    dtype = str(checkpoint.dtype).removeprefix("torch.")
    return Finding(
        "model",
        f"{name}: {type(model).__name__}, {millions:,.1f} M parameters, {dtype} on "
        f"{device_name(checkpoint.device)}",
    )


def _pixels(checkpoint: Checkpoint, inputs: Any, size: tuple[int, int]) -> Finding:
    """Whether the image's tokens can be placed, which `sparsemm heads` needs."""
    ids = inputs["input_ids"][0]
    text = f"{len(ids)} tokens"
    try:
        [[tokens]] = image_tokens(
            checkpoint.model.config, checkpoint.processor, inputs, [[size]], **checkpoint.images_kwargs
        )
    except ValueError as error:
        return Finding("prompt", f"{text}; `sparsemm heads` cannot run: {error}", good=False)
    views = f", {int(tokens.base.sum())} of them an overview" if bool(tokens.base.any()) else ""
    return Finding(
        "prompt", f"{text}, {len(tokens.positions)} for an image of {size[0]} x {size[1]} pixels{views}"
    )


def _picture(path: str | None) -> Image.Image:
    if path is None:
        return make_page(PAGE_SEED).image
    try:
        return read_picture(Path(path)).convert("RGB")
    except ValueError as error:
        raise InputError(f"image={path} cannot be read: {error}") from error
