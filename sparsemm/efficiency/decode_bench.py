"""Prefill, decode and memory of one model at one prompt length: the measuring.

Every round runs all contenders one after the other, each from an empty cache: prompt, warm-up, timed steps.
So a drift of the machine hits all alike, and only one cache is alive at a time, which is what the peaks of
memory are of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sparsemm.cache import RaggedCache
from sparsemm.cache.stock import cache_argument
from sparsemm.efficiency.backbone import Backbone
from sparsemm.efficiency.clocks import Clock, Peak, copy_bandwidth, only_new_objects_collected
from sparsemm.efficiency.contenders import Contender, Held, fill, held
from sparsemm.efficiency.steps import Steps, next_token

READ, DRAWN = "read", "drawn"
FAILED = {"graph": "not captured", "compiled": "not compiled"}

LOADED_AT = 2048
"""Prompt tokens of the runs before the first round on a GPU, in which kernels are loaded."""

PROMPTS = (READ, DRAWN)
"""The prompt goes through the model; or its K and V are drawn at random, and only the caches see them."""


@dataclass(frozen=True)
class Plan:
    """How a group is measured.

    Attributes
    ----------
    prompt
        "read" or "drawn".
    prompt_tokens, batch_size
        Of the group.
    steps, warm_up
        Decode steps of each round that are timed, and before them.
    rounds
        Times that everything is measured.
    backend
        Decode backend of our caches; None: theirs.
    """

    prompt: str
    prompt_tokens: int
    batch_size: int
    steps: int
    warm_up: int
    rounds: int
    backend: Any


@dataclass
class Samples:
    """What was measured of one contender.

    Attributes
    ----------
    prefill, compress
        Seconds of the prompt's forward, and of selecting and compacting: one for each round. Empty: the
        prompt was drawn; nothing compresses.
    steps
        Seconds of each timed decode step, a list for each round.
    peak_prefill, peak_decode
        Most bytes above the weights, over the rounds.
    held
        What the cache took.
    decoded_by
        Backend that decoded; None for transformers' own caches and where nothing was evicted.
    failed
        Why there is nothing; None: there is.
    """

    prefill: list[float] = field(default_factory=list)
    compress: list[float] = field(default_factory=list)
    steps: list[list[float]] = field(default_factory=list)
    peak_prefill: int | None = None
    peak_decode: int | None = None
    held: Held | None = None
    decoded_by: str | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Measurement:
    """A group: the copy bandwidth in bytes per second, and the contenders' samples in order."""

    bandwidth: float
    samples: list[Samples]


def measure(
    backbone: Backbone, plan: Plan, rivals: Sequence[Contender], report: Callable[[str], None]
) -> Measurement:
    """Measure all contenders in every round; `report` is called before each of them.

    A contender that runs out of the device's memory, or whose steps cannot be captured or compiled, has no
    samples, and says so; the others go on.
    """
    with ExitStack() as stack:
        if any(rival.decoding == "compiled" for rival in rivals):
            torch.compiler.reset()  # nothing of another group's graphs
            # Every contender has sizes of its own, and shall have a graph for just these, as if alone. Past
            # torch's limit it would have none, and run as if not compiled, unseen.
            settings: Any = torch._dynamo.config
            stack.enter_context(
                settings.patch(
                    automatic_dynamic_shapes=False, recompile_limit=1000, fail_on_recompile_limit_hit=True
                )
            )
        stack.enter_context(torch.no_grad())
        stack.enter_context(only_new_objects_collected())
        bandwidth = copy_bandwidth(backbone.device)
        bench = Bench(backbone, plan)
        samples = [Samples() for _ in rivals]
        if backbone.device.type == "cuda":  # the first use of a kernel loads it: that counts for nothing
            short = Bench(backbone, replace(plan, prompt_tokens=min(plan.prompt_tokens, LOADED_AT)))
            for rival in {(rival.cache, rival.decoding): rival for rival in rivals}.values():
                short.try_run(rival, Samples())
        for number in range(1, plan.rounds + 1):
            for rival, found in zip(rivals, samples, strict=True):
                report(f"round {number}: {rival.label}")
                if not found.failed:
                    bench.try_run(rival, found)
    return Measurement(bandwidth, samples)


class Bench:
    """One model, one prompt, and the clock."""

    def __init__(self, backbone: Backbone, plan: Plan) -> None:
        self.backbone, self.plan = backbone, plan
        self.clock = Clock(backbone.device)
        tokens = plan.prompt_tokens if plan.prompt == READ else 1
        self.ids = backbone.random_ids(plan.batch_size, tokens)
        shape = backbone.subject.shape
        self.entry_bytes = 2 * shape.head_dim * backbone.subject.dtype.itemsize
        self.drawn: tuple[Tensor, Tensor, Tensor] | None = None
        if plan.prompt == DRAWN:
            heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
            torch.manual_seed(0)
            self.drawn = tuple(
                torch.randn(
                    (plan.batch_size, count, length, shape.head_dim),
                    dtype=backbone.subject.dtype,
                    device=backbone.device,
                )
                for count, length in (
                    (heads, backbone.subject.window),
                    (kv_heads, plan.prompt_tokens),
                    (kv_heads, plan.prompt_tokens),
                )
            )  # pyright: ignore[reportAttributeAccessIssue]

    def try_run(self, rival: Contender, found: Samples) -> None:
        """One round of one contender, or why there is none."""
        try:
            self.run(rival, found)
        except torch.OutOfMemoryError:
            found.failed = "out of memory"
        except Exception as error:
            if rival.decoding == "eager":
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            found.failed = f"{FAILED[rival.decoding]}: {reason}"

    def run(self, rival: Contender, found: Samples) -> None:
        """One round of one contender."""
        plan, clock, model = self.plan, self.clock, self.backbone.model
        self.backbone.attend_with(rival.attention)
        peak = Peak(self.backbone.device)
        cache = rival.new_cache(self.backbone, plan.prompt_tokens, plan.warm_up + plan.steps, plan.backend)
        given, spans = cache_argument(cache), self._compressions(cache)
        peak.begin()
        clock.wait()
        start = clock.mark()
        if self.drawn is None:
            token = next_token(model(input_ids=self.ids, **given, use_cache=True, logits_to_keep=1))
        else:
            fill(cache, *self.drawn)
            token = self.ids
        end = clock.mark()
        clock.wait()
        if self.drawn is None:
            found.prefill.append(clock.seconds(start, end))
            found.peak_prefill = _most(found.peak_prefill, peak.bytes())
        if rival.method.evicts:
            found.compress.append(sum(clock.seconds(*span) for span in spans))
        found.held = held(cache, self.entry_bytes)
        found.decoded_by = _backend(cache)
        peak.begin()
        position = torch.full_like(token, plan.prompt_tokens)
        steps = Steps(model, cache, token, position, rival.decoding)
        steps.warm_up(plan.warm_up)
        clock.wait()
        marks = [clock.mark()]
        for _ in range(plan.steps):
            steps.step()
            marks.append(clock.mark())
        clock.wait()
        found.steps.append([clock.seconds(*pair) for pair in pairwise(marks)])
        found.peak_decode = _most(found.peak_decode, peak.bytes())

    def _compressions(self, cache: Any) -> list[tuple[Any, Any]]:
        """The marks around what each layer of ours does with its prompt after having attended to it."""
        spans: list[tuple[Any, Any]] = []

        def timed(observe: Callable[..., Any]) -> Callable[..., Any]:
            def around(*arguments: Any) -> Any:
                start = self.clock.mark()
                given = observe(*arguments)
                spans.append((start, self.clock.mark()))
                return given

            return around

        for layer in cache.compressible_layers if isinstance(cache, RaggedCache) else []:
            layer.observe = timed(layer.observe)
        return spans


def _backend(cache: Any) -> str | None:
    if not isinstance(cache, RaggedCache):
        return None
    storages = (layer.storage for layer in cache.compressible_layers)
    return next((storage.backend for storage in storages if storage is not None), None)


def _most(one: int | None, other: int | None) -> int | None:
    return max((value for value in (one, other) if value is not None), default=None)
