"""Decode steps compiled whole, and how many graphs that took."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch._dynamo.backends.registry import lookup_backend
from transformers import CompileConfig, PreTrainedModel

from tests.families import build


@cache
def own(family: str) -> PreTrainedModel:
    """A family's model that may be changed: transformers keeps the compiled call on it."""
    return copy.deepcopy(build(family)[0])


@contextmanager
def graphs_of(backend: str = "eager") -> Iterator[tuple[list[Any], Callable[..., Any]]]:
    """The graphs that are made inside, and the backend that makes them."""
    graphs: list[Any] = []

    def noting(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return lookup_backend(backend)(graph, inputs)

    torch.compiler.reset()
    yield graphs, noting
    torch.compiler.reset()


def whole(backend: Any) -> dict[str, Any]:
    """Options of ``generate``: compile each step after the prompt as one graph, here too."""
    config = CompileConfig(fullgraph=True, backend=backend, mode="default")
    config._compile_all_devices = True  # pyright: ignore[reportAttributeAccessIssue]
    return {"compile_config": config}
