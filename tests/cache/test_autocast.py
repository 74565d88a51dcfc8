"""Under autocast the model computes in half precision, and what is kept is chosen as in float32."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sparsemm.cache import RaggedCache, fan_out
from sparsemm.methods import KVMethod, kept_mask, kept_masks
from tests.cache.reference import generate
from tests.cache.test_matrix import BELOW, WINDOW, method_of
from tests.cache.triton_here import in_the_interpreter
from tests.families import build, inputs
from tests.methods.cases import METHODS
from tests.methods.test_select import SHAPES, left_padded, prompt

halves = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)


@pytest.fixture
def autocast(half: torch.dtype) -> Iterator[None]:
    with torch.autocast("cpu", dtype=half):
        yield


@halves
@pytest.mark.usefixtures("autocast")
@pytest.mark.parametrize("name", METHODS)
def test_the_same_entries_are_kept(name: str, half: torch.dtype) -> None:
    shape = SHAPES["gqa"]
    method: KVMethod = METHODS[name](BELOW, WINDOW, shape)
    query, key = prompt(shape, batch=2)
    arguments: dict[str, Any] = {"layer": 1, "shape": shape, "valid": left_padded()}
    found = kept_mask(method, query, key, **arguments)
    many = kept_masks([method], query, key, **arguments)
    with torch.autocast("cpu", enabled=False):
        expected = kept_mask(method, query, key, **arguments)
    assert torch.equal(found, expected)
    assert torch.equal(many[0], expected)


@pytest.mark.usefixtures("autocast")
@pytest.mark.parametrize("name", ["fullkv", "adakv"])
@pytest.mark.parametrize(
    "backend", ["grouped", "loop", "padded", pytest.param("triton", marks=in_the_interpreter)]
)
@pytest.mark.parametrize(
    ("family", "half"),
    [("llama", torch.bfloat16), ("qwen3_vl", torch.float16)],  # Qwen3-VL norms its keys, in float32
    ids=str,
)
def test_every_backend_answers(family: str, backend: Any, name: str, half: torch.dtype) -> None:
    """The logits are those of float32, as nearly as half precision has them."""
    model, _ = build(family)
    method, prompts = method_of(name, BELOW, family), inputs(family, 2)
    for static in (False, True):
        cache = RaggedCache(model.config, method, backend=backend, static=static, max_new_tokens=8)
        result = generate(model, prompts, cache, tokens=2)
        with torch.autocast("cpu", enabled=False):
            whole = generate(model, prompts, RaggedCache(model.config, method), tokens=2)
        assert torch.equal(result.sequences[:, -2:-1], whole.sequences[:, -2:-1])
        for one, other in zip(result.logits, whole.logits, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0.2)


@halves
@pytest.mark.usefixtures("autocast")
def test_fan_out_answers(half: torch.dtype) -> None:
    model, _ = build("llama")
    methods = [method_of(name, BELOW, "llama") for name in ("fullkv", "snapkv", "sparsemm")]
    for asked in (None, 6):
        found = fan_out(model, inputs("llama", 2), methods, max_new_tokens=3, question_tokens=asked)
        with torch.autocast("cpu", enabled=False):
            whole = fan_out(model, inputs("llama", 2), methods, max_new_tokens=3, question_tokens=asked)
        assert [[text[0] for text in texts] for texts in found.tokens] == [
            [text[0] for text in texts] for texts in whole.tokens
        ]
