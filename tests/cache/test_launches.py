"""What a decode step costs beside the model's own work: kernels launched, and never a wait for the device."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sparsemm.cache import RaggedCache
from sparsemm.cache.layer import RaggedLayer
from sparsemm.cache.stock import cache_argument
from tests.cache.test_matrix import BELOW, method_of
from tests.cache.triton_here import in_the_interpreter
from tests.families import build, inputs

ALLOCATING = {"new_empty", "empty", "empty_strided"}
WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "_to_copy", "equal", "lift_fresh"}
"""Operations that wait for a device, or copy between it and the host."""


class Operations(TorchDispatchMode):
    """Names of the operations in our part of each layer; views and allocations launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Counter[str]] = []
        self.listening = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if self.listening and not func.is_view and name not in ALLOCATING:
            self.layers[-1][name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def step_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operations]:
    """Note what our attention does in a step; a kernel counts as one operation of its name."""
    from sparsemm.cache import triton_kernels

    operations = Operations()
    attend = RaggedLayer.attend

    def noted(self: RaggedLayer, *given: Any) -> torch.Tensor:
        operations.layers.append(Counter())
        operations.listening = True
        try:
            return attend(self, *given)
        finally:
            operations.listening = False

    class Launches:
        """A kernel; the interpreter's own operations are not ours."""

        def __init__(self, name: str) -> None:
            self.name, self.kernel = name, getattr(triton_kernels, name)

        def __getitem__(self, grid: Any) -> Any:
            def launch(*given: Any, **options: Any) -> None:
                operations.layers[-1][self.name] += 1
                operations.listening = False
                self.kernel[grid](*given, **options)
                operations.listening = True

            return launch

    with monkeypatch.context() as patch:
        patch.setattr(RaggedLayer, "attend", noted)
        for name in ("attend_chunk", "merge_chunks"):
            patch.setattr(triton_kernels, name, Launches(name))
        with operations:
            yield operations


@in_the_interpreter
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize(("name", "kernels"), [("snapkv", 1), ("sparsemm", 2)])
def test_a_step_launches_two_kernels_a_layer_at_most_and_never_waits(
    monkeypatch: pytest.MonkeyPatch, name: str, kernels: int, static: bool
) -> None:
    """Equal heads are a chunk each: nothing is merged. Whether there is room is asked once for all layers."""
    model, _ = build("llama")
    cache = RaggedCache(
        model.config, method_of(name, BELOW, "llama"), max_new_tokens=8, backend="triton", static=static
    )
    prompt = inputs("llama", 1)["input_ids"]
    with torch.no_grad():
        token = model(input_ids=prompt, **cache_argument(cache)).logits[:, -1:].argmax(-1)
        assert cache.stats().tokens_evicted > 0
        position = torch.full_like(token, prompt.shape[1])
        with step_of(monkeypatch) as operations:
            model(input_ids=token, position_ids=position, **cache_argument(cache))
    assert len(operations.layers) == len(cache.compressible_layers)
    first, *others = operations.layers
    if static:
        first -= Counter({"add": 1, "le": 1, "_assert_async": 1})
    for layer in (first, *others):
        assert layer.pop("attend_chunk") == 1
        assert layer.pop("merge_chunks", 0) < kernels
        assert not layer
    assert not WAITING & set().union(*operations.layers)


@pytest.mark.parametrize("name", ["snapkv", "sparsemm", "adakv"])
def test_compression_counts_on_the_host_what_it_keeps(name: str) -> None:
    model, _ = build("llama")
    cache = RaggedCache(model.config, method_of(name, BELOW, "llama"), max_new_tokens=8, backend="loop")
    operations = Operations()
    compress = RaggedLayer.compress

    def noted(self: RaggedLayer, *given: Any) -> Any:
        operations.layers.append(Counter())
        operations.listening = True
        try:
            return compress(self, *given)
        finally:
            operations.listening = False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RaggedLayer, "compress", noted)
        with torch.no_grad(), operations:
            model(input_ids=inputs("llama", 1)["input_ids"], **cache_argument(cache))
    assert len(operations.layers) == len(cache.compressible_layers)
    assert not any(layer["nonzero"] for layer in operations.layers)  # its size would be the device's to tell
