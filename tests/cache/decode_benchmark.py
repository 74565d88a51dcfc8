"""Time of a decode step: the whole embedded architecture against `DynamicCache`, one large layer by backend.

Run ``OMP_NUM_THREADS=1 python -m tests.cache.decode_benchmark``. CPU time of one thread, minimum of three
rounds; random weights, since time does not depend on them.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as sdpa
from transformers import Cache, DynamicCache

from sparsemm.cache import RaggedCache, model_shape
from sparsemm.cache.decode import ragged_attention
from sparsemm.cache.layout import Backend
from sparsemm.cache.stock import cache_argument
from sparsemm.cache.storage import FlatStorage
from sparsemm.tiny.architecture import build_model
from tests.methods.cases import METHODS

BATCH, PROMPT, STEPS, WINDOW = 32, 110, 60, 8
ROUNDS = 3
CPU_BACKENDS: tuple[Backend, ...] = ("grouped", "loop", "padded")


def decode_ms(model: torch.nn.Module, cache: object, ids: Tensor, mask: Tensor) -> float:
    """Milliseconds of one decode step after a left-padded prompt."""
    with torch.inference_mode():
        token = model(
            input_ids=ids, attention_mask=mask, **cache_argument(cache), logits_to_keep=1
        ).logits.argmax(-1)
        start = time.process_time()
        for step in range(STEPS):
            mask = torch.cat([mask, mask.new_ones(BATCH, 1)], dim=1)
            positions = torch.full((3, BATCH, 1), PROMPT + step)
            token = model(
                input_ids=token,
                attention_mask=mask,
                position_ids=positions,
                **cache_argument(cache),
                logits_to_keep=1,
            ).logits.argmax(-1)
    return (time.process_time() - start) / STEPS * 1e3


def best(run: Callable[[], float]) -> float:
    """Least of the rounds."""
    return min(run() for _ in range(ROUNDS))


def whole_model() -> None:
    """A step of the embedded architecture, every method at four budgets."""
    model = build_model().eval()
    shape = model_shape(model.config.get_text_config())
    ids = torch.randint(8, 40, (BATCH, PROMPT))
    mask = torch.ones(BATCH, PROMPT, dtype=torch.long)
    for row in range(BATCH):
        mask[row, : row % 12] = 0
    names = ("fullkv", "snapkv", "pyramidkv", "adakv", "sparsemm", "random")
    cells = [
        (name, budget) for name in names for budget in (12, 24, 48, 96) if name != "fullkv" or budget == 96
    ]
    model.set_attn_implementation({"text_config": "sparsemm"})

    def cache_of(name: str, budget: int) -> Cache:
        if name == "stock":
            return DynamicCache(config=model.config)
        return RaggedCache(model.config, METHODS[name](budget, WINDOW, shape), max_new_tokens=STEPS)

    # Rounds outside cells, so that a busy moment of the machine meets all of them.
    found = {cell: float("inf") for cell in [("stock", 0), *cells]}
    for _ in range(ROUNDS):
        for cell in found:
            found[cell] = min(found[cell], decode_ms(model, cache_of(*cell), ids, mask))
    stock = found.pop(("stock", 0))
    print(f"DynamicCache {stock:.2f} ms a step, batch {BATCH}, prompt {PROMPT}")
    for (name, budget), step in found.items():
        print(f"{name:10s} {budget:3d} {step:6.2f} ms  x{step / stock:.2f}")


def large_layer() -> None:
    """One layer of 32 heads of 128 at 32K tokens and 256 kept entries on average, against all of them."""
    heads, length, head_dim = 32, 32_768, 128
    counts = {"equal": [256] * heads, "skewed": [128] * (heads - 2) + [1024, 13 * 256]}
    keys, values = torch.randn(2, 1, heads, length, head_dim)
    query = torch.randn(1, heads, 1, head_dim)
    full = best(lambda: attention_ms(lambda: sdpa(query, keys, values, scale=0.1), 3))
    print(f"full SDPA {full:.2f} ms, {length} tokens")
    for name, kept in counts.items():
        mask = (torch.arange(length) < torch.tensor(kept)[:, None])[None]
        for backend in CPU_BACKENDS:
            storage = FlatStorage.from_dense(keys, values, mask, 8, backend)
            step = best(
                lambda storage=storage: attention_ms(lambda: ragged_attention(query, storage, 0.1), 50)
            )
            groups = len(storage.groups)
            print(f"{name:7s} {backend:8s} {step:6.2f} ms, {groups} groups, 1/{full / step:.0f} of full SDPA")


def attention_ms(attend: Callable[[], Tensor], repeats: int) -> float:
    """Milliseconds of one call."""
    attend()
    start = time.process_time()
    for _ in range(repeats):
        attend()
    return (time.process_time() - start) / repeats * 1e3


if __name__ == "__main__":
    whole_model()
    large_layer()
