"""One round of the comparison with kvpress: a script for either environment.

So nothing of ours is imported at its head. The script reads a task from stdin and writes what it
measured to stdout, both in JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

# As `sparsemm.cache.stock` has it, which the other environment lacks.
CACHE_ARGUMENT = (
    "cache" if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters else "past_key_values"
)


def model_of(task: dict[str, Any]) -> Any:
    """Llama with seeded random weights: made on the CPU, so that both environments draw the same."""
    config = LlamaConfig(
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=task["layers"],
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=8192,
        max_position_embeddings=65536,
    )
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(config)
    model.set_attn_implementation("sdpa")
    return model.to(getattr(torch, task["dtype"])).to(task["device"]).eval()


def prompt_of(task: dict[str, Any]) -> torch.Tensor:
    """Seeded token ids [1, prompt tokens]."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(8192, (1, task["prompt_tokens"]), generator=generator).to(task["device"])


class Ours:
    """`RaggedCache` of sparsemm."""

    package = "sparsemm"

    def __init__(self) -> None:
        self.sparsemm: Any = importlib.import_module("sparsemm")

    def begin(self, model: Any, task: dict[str, Any], name: str) -> tuple[Any, Any]:
        """An empty cache, and what must be open while the prompt is read."""
        if name == "fullkv":
            model.set_attn_implementation("sdpa")
            return DynamicCache(config=model.config), contextlib.nullcontext()
        model.set_attn_implementation("sparsemm")
        method = {"snapkv": self.sparsemm.SnapKV, "adakv": self.sparsemm.AdaKV}[name]
        steps = task["warm_up"] + task["new_tokens"]
        cache = self.sparsemm.RaggedCache(
            model.config, method(task["budget"], window=task["window"]), max_new_tokens=steps
        )
        return cache, contextlib.nullcontext()

    def held(self, cache: Any, model: Any) -> tuple[int, float]:
        """Bytes allocated after the prompt, and the mean entries kept per (layer, KV head)."""
        if not isinstance(cache, self.sparsemm.RaggedCache):
            return _dynamic_bytes(cache), float(cache.get_seq_length())
        stats = cache.stats()
        return stats.kv_bytes, stats.realised_budget


class Theirs:
    """kvpress's presses over transformers' `DynamicCache`."""

    package = "kvpress"

    def __init__(self) -> None:
        self.kvpress: Any = importlib.import_module("kvpress")

    def begin(self, model: Any, task: dict[str, Any], name: str) -> tuple[Any, Any]:
        """An empty cache, and what must be open while the prompt is read."""
        for layer in model.model.layers:
            layer.self_attn.masked_key_indices = None  # AdaKVPress leaves them
        cache = DynamicCache(config=model.config)
        if name == "fullkv":
            return cache, contextlib.nullcontext()
        share = (task["budget"] + 0.5) / task["prompt_tokens"]  # rounded down to the budget
        press = self.kvpress.SnapKVPress(
            compression_ratio=1 - share, window_size=task["window"], kernel_size=5
        )
        if name == "adakv":
            press = self.kvpress.AdaKVPress(press, alpha_safeguard=0.2)
        return cache, press(model)

    def held(self, cache: Any, model: Any) -> tuple[int, float]:
        """Bytes in the cache and in the lists of masked entries; the mean entries that are not masked."""
        size, entries, heads = _dynamic_bytes(cache), 0, 0
        for held, layer in zip(cache.layers, model.model.layers, strict=True):
            masked = getattr(layer.self_attn, "masked_key_indices", None)
            entries += held.keys.shape[1] * held.keys.shape[2] - (0 if masked is None else len(masked[0]))
            heads += held.keys.shape[1]
            size += 0 if masked is None else sum(part.untyped_storage().nbytes() for part in masked)
        return size, entries / heads


def _dynamic_bytes(cache: Any) -> int:
    parts = [part for layer in cache.layers for part in (layer.keys, layer.values)]
    return sum(part.untyped_storage().nbytes() for part in parts)


def measure(task: dict[str, Any], engine: Any, model: Any, name: str) -> dict[str, Any]:
    """One prompt and its decode steps under one method."""
    wait = torch.cuda.synchronize if task["device"] != "cpu" else lambda: None
    ids = prompt_of(task)
    cache, reading = engine.begin(model, task, name)
    wait()
    start = time.perf_counter()
    with reading:
        output = model(input_ids=ids, **{CACHE_ARGUMENT: cache}, use_cache=True, logits_to_keep=1)
    wait()
    prefill = time.perf_counter() - start
    size, realised = engine.held(cache, model)
    steps, tokens, position = [], [], ids.shape[1]
    for _ in range(task["warm_up"] + task["new_tokens"]):
        token = output.logits[:, -1:].argmax(-1)
        tokens.append(token)
        start = time.perf_counter()
        where = torch.tensor([[position]], device=ids.device)  # kvpress's caches do not know it
        output = model(input_ids=token, position_ids=where, **{CACHE_ARGUMENT: cache}, use_cache=True)
        wait()
        steps.append((time.perf_counter() - start) * 1e3)
        position += 1
    return {
        "prefill_s": prefill,
        "steps_ms": steps[task["warm_up"] :],
        "kv_bytes": size,
        "realised_budget": realised,
        "tokens": torch.cat(tokens, 1)[0].tolist(),
    }


def main() -> None:
    """Measure every method of the task under its engine."""
    task = json.load(sys.stdin)
    engine = {"sparsemm": Ours, "kvpress": Theirs}[task["engine"]]()
    with torch.no_grad():
        model = model_of(task)
        measure(
            {**task, "prompt_tokens": 256, "new_tokens": 2}, engine, model, "fullkv"
        )  # threads are started
        found = {name: measure(task, engine, model, name) for name in ("fullkv", *task["methods"])}
    libraries = ("torch", "transformers", engine.package)
    json.dump({"versions": {name: version(name) for name in libraries}, "methods": found}, sys.stdout)


if __name__ == "__main__":
    main()
