"""One layer of the fan-out cache: a prompt's K/V once, what each method keeps of it, rows that share it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsemm.cache.handle import HeldLayer, KVHandle, check_heads
from sparsemm.cache.head_mask import HeadMask
from sparsemm.cache.question import refuse_prefix
from sparsemm.cache.row_grid import Placement
from sparsemm.cache.settings import MaskReader
from sparsemm.cache.shared_attention import joined_attention, prompt_attention
from sparsemm.methods import KVMethod, ModelShape, kept_masks

Pair = tuple[Tensor, Tensor]
"""K and V."""

ROOM = 16
"""Generated tokens that a layer makes room for at a time. All of the room is read in each step."""


@dataclass
class Shared:
    """What all layers of one fan-out cache share; `FanoutCache` says what the fields mean."""

    methods: Sequence[KVMethod]
    shape: ModelShape
    head_mask: HeadMask | None
    asked: bool
    masks: MaskReader = field(default_factory=MaskReader)
    placement: Placement | None = None


class SharedPromptLayer(HeldLayer):
    """Full K/V of the prompts, the kept entries of every method as masks, and the rows' own new tokens.

    Nothing is evicted: attention over kept entries is attention over all entries with the others hidden.

    Parameters
    ----------
    index
        Number of this layer among the compressible ones.
    shared
        Shared by all layers of the cache.

    Attributes
    ----------
    kept
        What each method keeps, bool [methods, B, KV heads, L], once the prompt is there.
    lengths
        Valid prompt tokens of each document, [B] on the CPU.
    """

    def __init__(self, index: int, shared: Shared) -> None:
        super().__init__()
        self.index, self.shared = index, shared
        self.masked_heads = None
        self.kept = self.lengths = torch.empty(0)
        self._prompt: Pair | None = None  # [B, KV heads, L, head_dim]
        self._shown: Pair = torch.empty(0), torch.empty(0)  # the same for the documents of the grid
        self._hidden = torch.empty(0)  # [D, KV heads, S, L]
        self._own: Pair = torch.empty(0), torch.empty(0)  # [stored rows, KV heads, room, head_dim]
        self._tokens = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Note dtype and device of the first K and V."""
        check_heads(key_states, self.shared.shape)
        self.dtype, self.device = key_states.dtype, key_states.device
        mask = self.shared.head_mask
        self.masked_heads = mask and mask.of_layer(self.index, self.device)
        self.is_initialized = True

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[KVHandle, KVHandle]:
        """Take the prompt's K and V [B, KV heads, L, head_dim], then a token's [R, KV heads, 1, head_dim]."""
        if self._prompt is None and self.keys is None:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
        elif self._prompt is None:
            raise RuntimeError(
                'the attention of the prompt did not run through "sparsemm", so nothing was selected: load '
                'the model with attn_implementation={"text_config": "sparsemm"}'
            )
        else:
            self._append(key_states, value_states)
        handle = KVHandle(self)
        return handle, handle

    def observe(self, query: Tensor, mask: Tensor | None, scaling: float) -> None:
        """Note what every method keeps; parameters as in `RaggedLayer.observe`."""
        assert self.keys is not None
        assert self.values is not None
        valid, self.lengths = self.shared.masks.prompt(mask, len(query), self.keys.shape[2])
        if self.shared.asked:
            refuse_prefix(mask, self.lengths)
        self.kept = kept_masks(
            self.shared.methods,
            query,
            self.keys,
            layer=self.index,
            shape=self.shared.shape,
            scaling=scaling,
            valid=valid,
            lengths=self.lengths,
        )
        self._prompt = self.keys, self.values
        self.keys = self.values = None

    def begin(self, methods: Tensor) -> None:
        """Start decoding the rows of the current placement.

        Parameters
        ----------
        methods
            Number of the method behind each place of the grid, [D, S].
        """
        assert self._prompt is not None
        assert self.shared.placement is not None
        documents, stored = self.shared.placement.documents, self.shared.placement.stored
        everyone = len(documents) == len(self._prompt[0])
        self._shown = self._prompt if everyone else _both(lambda part: part[documents], self._prompt)
        kept = self.kept[methods, documents[:, None]].transpose(1, 2)  # [D, KV heads, S, L]
        self._hidden = kept.new_zeros(kept.shape, dtype=torch.float32).masked_fill_(~kept, -torch.inf)
        # Zeros: room that no token was written to yet is read.
        self._own = _both(
            lambda part: part.new_zeros(stored, part.shape[1], ROOM, part.shape[-1]), self._prompt
        )
        self._tokens = 0

    def shrink_grid(self, lines: Tensor, places: Tensor) -> None:
        """Keep some documents [D'] and places [D', S'] of the grid, given by their numbers."""
        self._shown = _both(lambda part: part.index_select(0, lines), self._shown)
        old = self._hidden.shape[2]
        self._hidden = self._hidden[places // old, :, places % old].transpose(1, 2).contiguous()

    def shrink_store(self, rows: Tensor) -> None:
        """Keep some of the stored rows, given by their numbers."""
        self._own = _both(lambda part: part.index_select(0, rows), self._own)

    def attend(self, query: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        """Attention of each row's newest token, [R, heads, 1, head_dim] -> [R, 1, heads, head_dim]."""
        placement = self.shared.placement
        assert placement is not None
        with torch.autocast(query.device.type, enabled=False):
            return self._attend(query, scaling, placement)

    def _attend(self, query: Tensor, scaling: float, placement: Placement) -> Tensor:
        """As `attend`, in float32 whatever is around it."""
        kv_heads = self._hidden.shape[1]
        rows = (query.squeeze(2).float() * scaling).unflatten(1, (kv_heads, -1))
        prompt, mass = prompt_attention(placement.to_grid(rows), *self._shown, self._hidden)
        output = joined_attention(
            placement.to_store(rows),
            *self._own,
            self._tokens,
            placement.grid_to_store(prompt),
            placement.grid_to_store(mass),
        )
        return placement.from_store(output).flatten(1, 2).unsqueeze(1).to(query.dtype)

    def get_seq_length(self) -> int:
        """Tokens seen by a row, padding included."""
        held = self._prompt[0] if self._prompt is not None else self.keys
        return 0 if held is None else held.shape[2] + self._tokens

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask's key axis: all tokens ever seen."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """-1: no limit."""
        return -1

    def _append(self, key: Tensor, value: Tensor) -> None:
        """Give each row its newest token's K and V, [R, KV heads, 1, head_dim]."""
        placement = self.shared.placement
        assert placement is not None
        if self._tokens + 1 == self._own[0].shape[2]:
            self._own = _both(_longer, self._own)
        for held, token in zip(self._own, (key, value), strict=True):
            held[:, :, self._tokens] = placement.to_store(token.squeeze(2))
        self._tokens += 1


def _both(change: Callable[[Tensor], Tensor], pair: Pair) -> Pair:
    return change(pair[0]), change(pair[1])


def _longer(part: Tensor) -> Tensor:
    rows, kv_heads, _, head_dim = part.shape
    return torch.cat([part, part.new_zeros(rows, kv_heads, ROOM, head_dim)], dim=2)
