"""The options of the decode benchmark, checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sparsemm.configs import InputError, nearest
from sparsemm.efficiency.backbone import CHECKPOINT, Subject
from sparsemm.efficiency.clocks import free_bytes
from sparsemm.efficiency.contenders import check_names
from sparsemm.efficiency.decode_bench import PROMPTS, READ
from sparsemm.efficiency.shapes import SHAPES
from sparsemm.efficiency.steps import DECODINGS, Decoding
from sparsemm.methods.base import MOST

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Options:
    """The options of ``eval_configs/benchmark/decode.yaml``, which says what they mean.

    Raises
    ------
    InputError
        The first that cannot be meant.
    """

    shapes: list[str]
    layers: int | None
    lengths: list[int]
    batch_sizes: list[int]
    methods: list[str]
    budgets: list[int | float]
    prompt: str
    new_tokens: int
    warm_up: int
    rounds: int
    dtype: str | None
    decoding: list[Decoding] | None
    backend: str | None

    def __post_init__(self) -> None:
        for name in ("lengths", "batch_sizes"):
            values = getattr(self, name)
            if not isinstance(values, list) or not values or not all(map(_is_count, values)):
                raise InputError(f"{name} must be a list of positive integers, got {values!r}")
        for name in ("new_tokens", "warm_up", "rounds", "layers"):
            value = getattr(self, name)
            if not (_is_count(value) or (name == "layers" and value is None)):
                raise InputError(f"{name} must be a positive integer, got {value!r}")
        if self.new_tokens % self.rounds:
            raise InputError(
                f"new_tokens must be a multiple of rounds ({self.rounds}), got {self.new_tokens}"
            )
        for name in ("shapes", "methods", "budgets"):
            if not isinstance(getattr(self, name), list):
                raise InputError(f"{name} must be a list, got {getattr(self, name)!r}")
        if not (self.shapes and self.methods and self.budgets):
            raise InputError("nothing to do: give at least one shape, one method and one budget")
        for shape in self.shapes:
            if shape not in (known := [*SHAPES, CHECKPOINT]):
                raise InputError(f"unknown shape {shape!r}; {nearest(shape, known)}")
        if self.layers is not None and CHECKPOINT in self.shapes:
            raise InputError("layers cuts shapes: a checkpoint is measured whole (layers=null)")
        for name, value, known in (("prompt", self.prompt, PROMPTS), ("dtype", self.dtype, DTYPES)):
            if value not in known and not (name == "dtype" and value is None):
                raise InputError(f"unknown {name} {value!r}; {nearest(str(value), known)}")
        if not (self.decoding is None or (isinstance(self.decoding, list) and self.decoding)):
            raise InputError(
                f"decoding must be null or a list of {', '.join(DECODINGS)}, got {self.decoding!r}"
            )
        for decoding in self.decoding or []:
            if decoding not in DECODINGS:
                raise InputError(f"unknown decoding {decoding!r}; {nearest(str(decoding), DECODINGS)}")
        check_names(self.methods, self.backend)

    @property
    def steps(self) -> int:
        """Timed decode steps of a round."""
        return self.new_tokens // self.rounds

    @property
    def positions(self) -> int:
        """Most tokens that a prompt and what is generated after it have."""
        return max(self.lengths) + self.warm_up + self.steps + 1


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST


def check_memory(subject: Subject, options: Options) -> None:
    """Refuse what the machine's memory surely does not hold: a CPU's process would be killed.

    Counted are the weights, FullKV of the longest prompt in the largest batch with a copy of one layer's,
    and, for a prompt that is read, the widest layer's activations and the mask that a static cache needs.

    Raises
    ------
    InputError
        With what would make it smaller.
    """
    free, config, shape = free_bytes(), subject.config.get_text_config(decoder=True), subject.shape
    if free is None:
        return
    size, tokens, rows = subject.dtype.itemsize, max(options.lengths), max(options.batch_sizes)
    layers = config.num_hidden_layers
    attention = (
        2 * config.hidden_size * shape.head_dim * (shape.num_attention_heads + shape.num_key_value_heads)
    )
    weights = layers * (attention + 3 * config.hidden_size * config.intermediate_size)
    weights += 2 * config.vocab_size * config.hidden_size
    entries = rows * tokens * shape.num_key_value_heads * 2 * shape.head_dim
    needed = size * (weights + entries * (layers + 2))
    if options.prompt == READ:
        needed += size * rows * tokens * (3 * config.intermediate_size + 4 * config.hidden_size)
        needed += (1 + size) * rows * tokens * tokens
    if needed > free:
        raise InputError(
            f"{subject.name} with {layers} layers and {rows} x {tokens} tokens needs about "
            f"{needed / 1e9:.0f} GB ({str(subject.dtype)[6:]}), {free / 1e9:.0f} GB are free: "
            "reduce layers, lengths or batch_sizes"
        )


def dtype_of(option: str | None, usual: Any, device: torch.device) -> torch.dtype:
    """What was asked for; else a checkpoint's own; else bfloat16 on a GPU and float32 on a CPU."""
    if option is None and usual in DTYPES:
        option = usual
    if option is None:
        option = "bfloat16" if device.type == "cuda" else "float32"
    return getattr(torch, option)
