"""Decode steps of one model and cache: as they are, replayed from a CUDA graph, or compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from torch import Tensor

from sparsemm.cache.stock import cache_argument
from sparsemm.efficiency.graphs import captured

Decoding = Literal["eager", "graph", "compiled"]
DECODINGS: tuple[Decoding, ...] = get_args(Decoding)
"""How decode steps run.

eager
    Every operation is launched by Python.
graph
    One step, captured as a CUDA graph, is replayed (see `graphs.captured`).
compiled
    As ``generate`` compiles it: ``torch.compile`` with ``mode="reduce-overhead"``.
"""


class Steps:
    """Greedy decoding, one token in every row a step.

    Parameters
    ----------
    model
        A language model of transformers.
    cache
        It holds the prompt. For "graph" and "compiled" one whose sizes are fixed, with room for all steps.
    token
        Token ids after the prompt, [B, 1].
    position
        Their position ids, [B, 1] or [axes, B, 1].
    decoding
        See `DECODINGS`.

    Attributes
    ----------
    token
        The newest token ids, [B, 1], on the device; changed where it lies.
    """

    def __init__(self, model: Any, cache: Any, token: Tensor, position: Tensor, decoding: Decoding) -> None:
        self.token, self.position, self.cache = token.clone(), position.clone(), cache
        self.decoding = decoding
        self._call = model.get_compiled_call(None) if decoding == "compiled" else model
        self._replay: Callable[[], None] = self._advance

    def warm_up(self, count: int) -> None:
        """Take so many steps, at least one, and capture the graph where there shall be one."""
        if self.decoding == "graph":
            self._replay = captured(self._advance, self.token.device, count)
            return
        for _ in range(count):
            self._advance()

    def step(self) -> None:
        """Take one step; it waits for nothing."""
        self._replay()

    def _advance(self) -> None:
        output = self._call(
            input_ids=self.token,
            position_ids=self.position,
            **cache_argument(self.cache),
            use_cache=True,
        )
        self.token.copy_(next_token(output))
        self.position.add_(1)


def next_token(output: Any) -> Tensor:
    """The greedy token ids [B, 1] of a forward's logits; they stay on the device."""
    return output.logits[:, -1:].argmax(-1)
