"""Options and inputs that the ragged cache cannot serve, said in one line instead of a wrong answer."""

import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sparsemm.cache.layout import BACKENDS, VARLEN, Backend
from sparsemm.cache.varlen import DTYPES, varlen_function


def triton_interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on the CPU: for tests, thousands of times slower."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def default_backend(device: torch.device) -> Backend:
    """Return the decode backend where none is named: on a GPU the kernel, if Triton is there."""
    return "triton" if device.type == "cuda" and find_spec("triton") is not None else "grouped"


def check_backend(backend: str) -> None:
    """Raise ValueError for a decode backend that is unknown, or cannot run here."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend != "triton" and backend not in VARLEN:
        return
    if not (torch.cuda.is_available() or (backend == "triton" and triton_interpreted())):
        raise ValueError(f"backend {backend!r} needs a GPU, and there is none: take 'grouped'")
    package = {"torch_varlen": "a newer torch", "flash_attn": "the package flash-attn"}
    try:
        if backend == "triton":
            import sparsemm.cache.triton_kernels  # noqa: F401
        else:
            varlen_function(backend)
    except ImportError as error:
        needed = package.get(backend, "the package triton")
        raise ValueError(
            f"backend {backend!r} needs {needed} ({error}): install it, or take 'grouped'"
        ) from error


def check_static(max_new_tokens: int | None, backend: str | None) -> None:
    """Raise ValueError where a static cache lacks its size, or has a backend without a static form."""
    if max_new_tokens is None:
        raise ValueError("a static cache never grows: give max_new_tokens")
    if backend in VARLEN:
        raise ValueError(f"backend {backend!r} has no static form: take 'triton' or 'grouped'")


def check_backend_input(backend: Backend, key: Tensor) -> None:
    """Raise ValueError for a decode backend that cannot read K and V like these."""
    if backend != "triton" and backend not in VARLEN:
        return
    if key.device.type != "cuda" and not (backend == "triton" and triton_interpreted()):
        raise ValueError(
            f"backend {backend!r} needs the model on a GPU, it is on {key.device}: move it, or take 'grouped'"
        )
    if backend in VARLEN and key.dtype not in DTYPES:
        raise ValueError(
            f"backend {backend!r} needs float16 or bfloat16, the model has {str(key.dtype)[6:]}: convert it, "
            "or take 'grouped'"
        )


def check_attention_arguments(dropout: float, arguments: dict[str, Any]) -> None:
    """Raise ValueError for an argument that changes attention in a way unknown to eviction."""
    if dropout:
        raise ValueError("RaggedCache does not support attention dropout: call model.eval()")
    for name, meaning in (
        ("softcap", "capped attention logits"),
        ("s_aux", "attention sinks"),
        ("position_bias", "a position bias"),
        ("sliding_window", "a sliding window in a full-attention layer"),
    ):
        if arguments.get(name) is not None:
            raise ValueError(f"RaggedCache does not support {meaning} ({name})")
