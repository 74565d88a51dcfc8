"""Flat storage of the entries kept by one layer: one contiguous segment per (batch row, KV head)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsemm.cache.chunks import Chunks
from sparsemm.cache.layout import Backend, Group, lay_out, slots_of

# Slots for appended tokens when nobody said how many will come; afterwards the slack doubles.
DEFAULT_SLACK = 16


@dataclass
class FlatStorage:
    """K and V of one layer, flat, and where each segment lies.

    A segment holds its kept prompt entries followed by the appended tokens, without a gap: slots
    ``starts[s] … starts[s] + lengths[s] - 1``. Every segment has been appended the same number of tokens.
    The slack behind it takes the next ones. Lengths and starts are host arrays, so that decoding never
    waits for the device.

    Parameters
    ----------
    keys, values
        Shapes [slots, key head_dim] and [slots, value head_dim].
    groups
        Runs of segments of equal capacity (see `layout`).
    biases
        For each group 0 at slots in use and -inf at its padding, shape [count, 1, capacity]; None without
        padding.
    indices
        For each group the segment numbers on the device; None where it holds all segments in natural order.
        Backend "triton" reads segments, not groups, and has none.
    chunks
        What it reads instead; None for the other backends.
    starts, lengths
        First slot and number of entries of each segment (batch row * KV heads + KV head).
    ends
        Slot of each segment's next token, on the device.
    appended, slack
        Tokens appended to each segment so far, and how many fit in all.
    heads
        KV heads.
    backend
        Name of the layout's policy.
    """

    keys: Tensor
    values: Tensor
    groups: list[Group]
    biases: list[Tensor | None]
    indices: list[Tensor | None]
    chunks: Chunks | None
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    ends: Tensor
    appended: int
    slack: int
    heads: int
    backend: Backend

    @classmethod
    def from_dense(
        cls, keys: Tensor, values: Tensor, kept: Tensor, slack: int | None, backend: Backend
    ) -> "FlatStorage":
        """Copy the kept entries out of a full cache.

        Parameters
        ----------
        keys, values
            Shape [B, KV heads, L, head_dim].
        kept
            Which entries to keep, bool [B, KV heads, L], at least one in every segment.
        slack
            Tokens that will be appended; None for a small default. More than these are taken too, by moving.
        backend
            Name of the layout's policy.
        """
        lengths = kept.sum(-1).flatten().cpu().numpy()
        slack = DEFAULT_SLACK if slack is None else slack
        storage = cls._allocate(keys, values, lengths, 0, slack, keys.shape[1], backend)
        storage._copy(keys.flatten(0, 2), values.flatten(0, 2), kept.flatten().nonzero().squeeze(-1))
        return storage

    def append(self, key: Tensor, value: Tensor) -> None:
        """Append q tokens to every segment, [B, KV heads, q, head_dim]: one indexed write each for K, V."""
        tokens = key.shape[2]
        if self.appended + tokens > self.slack:
            self._become(self.take(None, slack=self.appended + max(tokens, self.appended, DEFAULT_SLACK)))
        slots = self.ends
        if tokens > 1:
            slots = (slots[:, None] + torch.arange(tokens, device=slots.device)).flatten()
        self.keys.index_copy_(0, slots, key.reshape(-1, key.shape[-1]))
        self.values.index_copy_(0, slots, value.reshape(-1, value.shape[-1]))
        self._shift(tokens)

    def crop(self, tokens: int) -> None:
        """Forget the last appended tokens."""
        if tokens > self.appended:
            raise ValueError(f"cannot remove {tokens} tokens: only {self.appended} came after the prompt")
        self._shift(-tokens)

    def take(self, rows: Tensor | None, slack: int | None = None) -> "FlatStorage":
        """Copy chosen batch rows (any number, repeats allowed; None for all) into a layout of their own."""
        segments = np.arange(len(self.lengths))
        if rows is not None:
            segments = segments.reshape(-1, self.heads)[rows.cpu().numpy()].flatten()
        lengths = self.lengths[segments]
        slack = self.slack if slack is None else slack
        taken = self._allocate(
            self.keys, self.values, lengths - self.appended, self.appended, slack, self.heads, self.backend
        )
        source = torch.from_numpy(slots_of(self.starts[segments], lengths)).to(self.keys.device)
        taken._copy(self.keys, self.values, source)
        return taken

    def slack_bytes(self) -> int:
        """Bytes of the slots that no token was written to yet."""
        entry = sum(tensor.shape[-1] * tensor.element_size() for tensor in (self.keys, self.values))
        return len(self.lengths) * (self.slack - self.appended) * entry

    def tensors(self) -> list[Tensor]:
        """Every tensor that the storage keeps alive."""
        extra = [tensor for tensor in (*self.biases, *self.indices) if tensor is not None]
        listed = [] if self.chunks is None else self.chunks.tensors()
        return [self.keys, self.values, self.ends, *extra, *listed]

    @classmethod
    def _allocate(
        cls,
        keys: Tensor,
        values: Tensor,
        kept: NDArray[np.int64],
        appended: int,
        slack: int,
        heads: int,
        backend: Backend,
    ) -> "FlatStorage":
        """Lay out empty segments of `kept` prompt entries and `appended` tokens, like `keys`, `values`."""
        groups = lay_out(kept, slack, keys.shape[-1] + values.shape[-1], backend)
        starts = np.empty_like(kept)
        biases: list[Tensor | None] = []
        indices: list[Tensor | None] = []
        by_chunk = backend == "triton"
        for group in groups:
            padding = group.width - kept[group.segments]
            starts[group.segments] = group.offset + np.arange(len(group.segments)) * group.capacity + padding
            if not by_chunk:
                natural = len(groups) == 1
                indices.append(None if natural else torch.from_numpy(group.segments).to(keys.device))
            biases.append(_padding_bias(padding, group.capacity, keys) if padding.any() else None)
        # Zeros, since a slot of the padding is multiplied by a weight of zero, and garbage may be NaN.
        slots = groups[-1].end
        return cls(
            keys=keys.new_zeros(slots, keys.shape[-1]),
            values=values.new_zeros(slots, values.shape[-1]),
            groups=groups,
            biases=biases,
            indices=indices,
            chunks=Chunks.of(starts, kept + slack, keys.device) if by_chunk else None,
            starts=starts,
            lengths=kept + appended,
            ends=torch.from_numpy(starts + kept + appended).to(keys.device),
            appended=appended,
            slack=slack,
            heads=heads,
            backend=backend,
        )

    def _copy(self, keys: Tensor, values: Tensor, source: Tensor) -> None:
        """Fill all segments from the `source` slots of other flat tensors."""
        slots = torch.from_numpy(slots_of(self.starts, self.lengths)).to(source.device)
        self.keys[slots] = keys[source]
        self.values[slots] = values[source]

    def _shift(self, tokens: int) -> None:
        self.appended += tokens
        self.lengths += tokens
        self.ends += tokens

    def _become(self, other: "FlatStorage") -> None:
        self.__dict__.update(other.__dict__)


def _padding_bias(padding: NDArray[np.int64], capacity: int, like: Tensor) -> Tensor:
    """Additive mask [count, 1, capacity]: -inf at the first `padding` slots of each segment, else 0."""
    padded = torch.arange(capacity) < torch.from_numpy(padding)[:, None, None]
    return torch.zeros(padded.shape, dtype=like.dtype).masked_fill_(padded, -torch.inf).to(like.device)
