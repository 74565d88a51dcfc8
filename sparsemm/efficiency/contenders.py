"""What is compared: FullKV by transformers' own caches, and every method with real eviction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pkgutil import resolve_name
from typing import Any, Literal

from torch import Tensor
from transformers import Cache, DynamicCache, StaticCache
from transformers.cache_utils import StaticLayer

from sparsemm.cache import ATTENTION_NAME, BACKENDS, RaggedCache
from sparsemm.cache.layer import RaggedLayer
from sparsemm.configs import InputError, names, nearest, read
from sparsemm.efficiency.backbone import Backbone
from sparsemm.efficiency.steps import Decoding
from sparsemm.methods import FullKV, KVMethod

Holding = Literal["dynamic", "static", "ragged"]


@dataclass(frozen=True)
class Contender:
    """One way to hold the prompt and to attend to it.

    Attributes
    ----------
    method
        What is kept.
    cache
        "dynamic" and "static": transformers' `DynamicCache` and `StaticCache` with its SDPA; "ragged":
        `RaggedCache`, in its static form where steps are not eager.
    decoding
        How decode steps run: see `steps.DECODINGS`.
    """

    method: KVMethod
    cache: Holding
    decoding: Decoding = "eager"

    @property
    def budget(self) -> int | float | None:
        """Nominal; None for FullKV."""
        return self.method.budget if self.method.evicts else None

    @property
    def label(self) -> str:
        """In a few words: ``snapkv 256``, ``fullkv static graph``."""
        kind = str(self.budget) if self.method.evicts else self.cache
        return " ".join((self.method.name, kind, *([self.decoding] if self.decoding != "eager" else [])))

    @property
    def attention(self) -> str:
        """Name of the attention that goes with the cache."""
        return ATTENTION_NAME if self.cache == "ragged" else "sdpa"

    def new_cache(self, backbone: Backbone, prompt_tokens: int, new_tokens: int, backend: Any) -> Cache:
        """An empty cache, with room for the tokens that will be generated."""
        config = backbone.model.config
        if self.cache == "dynamic":
            return DynamicCache(config=config)
        if self.cache == "static":
            return StaticCache(config=config, max_cache_len=prompt_tokens + new_tokens)
        return RaggedCache(
            config, self.method, max_new_tokens=new_tokens, backend=backend, static=self.decoding != "eager"
        )


def contenders(methods: Sequence[KVMethod], decodings: Sequence[Decoding]) -> list[Contender]:
    """FullKV in each of its forms, then the methods, each with every kind of decode steps.

    What is replayed or compiled needs sizes that are fixed. There FullKV is held in a `RaggedCache`, too,
    which attends by the same backend as the methods do: so the difference to them is eviction's alone.
    """
    found: list[Contender] = []
    if "eager" in decodings:
        found += [Contender(FullKV(), "dynamic"), Contender(FullKV(), "static")]
    fixed: list[Decoding] = [decoding for decoding in decodings if decoding != "eager"]
    fixed_caches: tuple[Holding, ...] = ("static", "ragged")
    found += [Contender(FullKV(), cache, kind) for cache in fixed_caches for kind in fixed]
    return found + [Contender(method, "ragged", kind) for method in methods for kind in decodings]


def default_forms() -> dict[str, type[KVMethod]]:
    """What benchmarks know by name: the methods whose file in ``eval_configs/method`` is their default form.

    FullKV, which is always there, is not among them.
    """
    found = {name: resolve_name(read("method", name)["_target_"]) for name in names("method")}
    return {name: method for name, method in found.items() if method.name == name and method.evicts}


def check_names(methods: Iterable[Any], backend: Any) -> None:
    """Refuse names of methods and decode backends that are none.

    Raises
    ------
    InputError
        With the nearest ones.
    """
    known = default_forms()
    for name in methods:
        if name not in known:
            raise InputError(f"unknown method {name!r}; {nearest(name, known)}")
    if backend is not None and backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; {nearest(backend, BACKENDS)}")


def methods_of(
    asked: Sequence[str], budgets: Sequence[int | float], window: int, head_scores: Callable[[], Any]
) -> list[KVMethod]:
    """Every method at every budget; `head_scores` is asked only if a method wants them."""
    check_names(asked, None)
    found: list[KVMethod] = []
    for method in map(default_forms().__getitem__, asked):
        wants = any(field.init and field.name == "head_scores" for field in fields(method))
        more: dict[str, Any] = {"head_scores": head_scores()} if wants else {}
        found += [method(budget, window=window, **more) for budget in budgets]
    return found


@dataclass(frozen=True)
class Held:
    """What a cache takes after the prompt.

    Attributes
    ----------
    kv_bytes
        Allocated.
    slack_bytes
        Part of it that waits for further tokens.
    kept_bytes
        K and V of the kept prompt entries.
    realised_budget
        Mean entries kept per (layer, KV head).
    """

    kv_bytes: int
    slack_bytes: int
    kept_bytes: int
    realised_budget: float


def held(cache: Cache, entry_bytes: int) -> Held:
    """Read off a cache what it takes; `entry_bytes` are those of one token's K and V in one KV head."""
    if isinstance(cache, RaggedCache):
        stats = cache.stats()
        heads = stats.realised_per_head.shape[0] * stats.realised_per_head.shape[2]
        seen = int(cache.get_seq_length()) * len(stats.prompt_tokens) * heads
        others = stats.full_kv_bytes - seen * entry_bytes  # of layers that are not compressed
        kept = int(stats.realised_per_head.sum()) * entry_bytes + others
        return Held(stats.kv_bytes, stats.slack_bytes, kept, stats.realised_budget)
    tokens = int(cache.get_seq_length())
    total = slack = 0
    for layer in cache.layers:
        parts = [part for part in vars(layer).values() if isinstance(part, Tensor) and part.ndim]
        size = sum(part.untyped_storage().nbytes() for part in parts)
        total += size
        if type(layer) is StaticLayer:
            slack += size * (layer.max_cache_len - tokens) // layer.max_cache_len
    return Held(total, slack, total - slack, float(tokens))


def fill(cache: Cache, query: Tensor, key: Tensor, value: Tensor) -> None:
    """Put drawn K and V into every layer as if a prompt had been read; our layers compress them.

    Parameters
    ----------
    cache
        Empty.
    query
        Of the window, [B, heads, window, head_dim].
    key, value
        Of the whole prompt, [B, KV heads, L, head_dim].
    """
    for index, layer in enumerate(cache.layers):
        cache.update(key, value, index)
        if isinstance(layer, RaggedLayer):
            layer.observe(query, None, query.shape[-1] ** -0.5)
