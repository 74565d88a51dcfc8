"""Flat storage of the entries kept by one layer: one contiguous segment per (batch row, KV head)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsemm.cache.chunks import Chunks
from sparsemm.cache.layout import BY_SEGMENT, VARLEN, Backend, Group, lay_out, slots_of

# Slots for appended tokens when nobody said how many will come; afterwards the slack doubles.
DEFAULT_SLACK = 16


@dataclass
class FlatStorage:
    """K and V of one layer, flat, and where each segment lies.

    A segment holds its kept prompt entries followed by the appended tokens, without a gap: slots
    ``starts[s] … starts[s] + lengths[s] - 1``. Every segment has been appended the same number of tokens.
    The slack behind it takes the next ones. Lengths and starts are host arrays, so that decoding never
    waits for the device.

    A static storage never moves, and what changes in a step changes on the device: so that a compiled step
    holds for all of them.

    Parameters
    ----------
    keys, values
        Shapes [slots, key head_dim] and [slots, value head_dim].
    groups
        Runs of segments of equal capacity (see `layout`).
    biases
        For each group -inf at its padding, and 0 at slots in use, shape [count, 1, slots up to the last of
        the padding]; None without padding.
    order
        Segment numbers in the order of the groups, on the device; None where one group holds all, and for
        backends that read segments, not groups.
    chunks
        What "triton" reads instead; None for the other backends.
    begins
        First slot of each segment on the device, which `varlen` reads; None for the other backends.
    starts, kept
        First slot and number of prompt entries of each segment (batch row * KV heads + KV head).
    stops
        Slot behind each segment's prompt entries, on the device.
    counter
        Tokens appended to each segment so far: an int, or, for a static storage, on the device, int64
        [segments] for "triton", whose kernel counts for each of them, else [1].
    slack
        How many fit in all.
    heads
        KV heads.
    backend
        Name of the layout's policy.
    """

    keys: Tensor
    values: Tensor
    groups: list[Group]
    biases: list[Tensor | None]
    order: Tensor | None
    chunks: Chunks | None
    begins: Tensor | None
    starts: NDArray[np.int64]
    kept: NDArray[np.int64]
    stops: Tensor
    counter: int | Tensor
    slack: int
    heads: int
    backend: Backend

    @property
    def appended(self) -> int | Tensor:
        """Tokens appended to each segment so far: an int, or, for a static storage, a tensor, int64 []."""
        return self.counter[0] if isinstance(self.counter, Tensor) else self.counter

    @property
    def static(self) -> bool:
        """Whether a compiled step may work on it."""
        return isinstance(self.counter, Tensor)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Entries of each segment; for a static storage this waits for the device."""
        return self.kept + int(self.appended)

    @property
    def ends(self) -> Tensor:
        """Slot of each segment's next token, on the device."""
        return self.stops + self.appended

    @classmethod
    def from_dense(
        cls,
        keys: Tensor,
        values: Tensor,
        kept: Tensor,
        slack: int | None,
        backend: Backend,
        static: bool = False,
        counts: Tensor | None = None,
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
        static
            Whether a compiled step will work on it; it takes no more than `slack`.
        counts
            Kept entries of each segment, [B, KV heads] on the CPU; None: they are counted, which waits for
            the device.
        """
        lengths = (kept.sum(-1).cpu() if counts is None else counts).flatten().numpy()
        slack = DEFAULT_SLACK if slack is None else slack
        counted = len(lengths) if backend == "triton" else 1
        counter = torch.zeros(counted, dtype=torch.long, device=keys.device) if static else 0
        storage = cls._allocate(keys, values, lengths, counter, slack, keys.shape[1], backend)
        source = torch.nonzero_static(kept.flatten(), size=int(lengths.sum())).squeeze(-1)
        storage._copy(keys.flatten(0, 2), values.flatten(0, 2), source, lengths)
        return storage

    def append(self, key: Tensor, value: Tensor) -> None:
        """Append q tokens to every segment, [B, KV heads, q, head_dim]: one indexed write each for K, V."""
        tokens = key.shape[2]
        self.make_room(tokens)
        slots = self.ends
        if tokens > 1:
            slots = (slots[:, None] + torch.arange(tokens, device=slots.device)).flatten()
        self.keys.index_copy_(0, slots, key.reshape(-1, key.shape[-1]))
        self.values.index_copy_(0, slots, value.reshape(-1, value.shape[-1]))
        self.shift(tokens)

    def make_room(self, tokens: int) -> None:
        """Move to where so many more tokens fit, if they do not; a static storage never moves."""
        if isinstance(self.counter, int) and self.counter + tokens > self.slack:
            self._become(self.take(None, slack=self.counter + max(tokens, self.counter, DEFAULT_SLACK)))

    def check_room(self, tokens: int) -> None:
        """Let the device raise RuntimeError where a static storage has no room for so many more tokens."""
        assert isinstance(self.appended, Tensor)
        torch._assert_async(  # pyright: ignore[reportPrivateImportUsage]
            self.appended + tokens <= self.slack,
            f"this static RaggedCache has room for {self.slack} tokens after the prompt: give a larger "
            "max_new_tokens; for a new prompt call cache.reset()",
        )

    def shift(self, tokens: int) -> None:
        """Count tokens that were written behind each segment's last."""
        self.counter += tokens  # a tensor is changed where it lies

    def crop(self, tokens: int) -> None:
        """Forget the last appended tokens."""
        if tokens > self.appended:
            raise ValueError(
                f"cannot remove {tokens} tokens: only {int(self.appended)} came after the prompt"
            )
        self.shift(-tokens)

    def take(self, rows: Tensor | None, slack: int | None = None) -> "FlatStorage":
        """Copy chosen batch rows (any number, repeats allowed; None for all) into a layout of their own."""
        segments = np.arange(len(self.kept))
        if rows is not None:
            segments = segments.reshape(-1, self.heads)[rows.cpu().numpy()].flatten()
        slack = self.slack if slack is None else slack
        counter = self.counter
        if isinstance(counter, Tensor):
            counter = counter[:1].repeat(len(segments) if self.backend == "triton" else 1)
        taken = self._allocate(
            self.keys, self.values, self.kept[segments], counter, slack, self.heads, self.backend
        )
        lengths = taken.lengths
        source = slots_of(self.starts[segments], lengths, self.keys.device)
        taken._copy(self.keys, self.values, source, lengths)
        return taken

    def slack_bytes(self) -> int:
        """Bytes of the slots that no token was written to yet."""
        entry = sum(tensor.shape[-1] * tensor.element_size() for tensor in (self.keys, self.values))
        return len(self.kept) * (self.slack - int(self.appended)) * entry

    def tensors(self) -> list[Tensor]:
        """Every tensor that the storage keeps alive."""
        extra = (*self.biases, self.order, self.begins, self.counter)
        listed = [] if self.chunks is None else self.chunks.tensors()
        held = [tensor for tensor in extra if isinstance(tensor, Tensor)]
        return [self.keys, self.values, self.stops, *held, *listed]

    @classmethod
    def _allocate(
        cls,
        keys: Tensor,
        values: Tensor,
        kept: NDArray[np.int64],
        counter: int | Tensor,
        slack: int,
        heads: int,
        backend: Backend,
    ) -> "FlatStorage":
        """Lay out empty segments of `kept` prompt entries and the counted tokens, like `keys`, `values`."""
        groups = lay_out(kept, slack, keys.shape[-1] + values.shape[-1], backend)
        starts = np.empty_like(kept)
        biases: list[Tensor | None] = []
        static = isinstance(counter, Tensor)
        for group in groups:
            padding = group.width - kept[group.segments]
            starts[group.segments] = group.offset + np.arange(len(group.segments)) * group.capacity + padding
            biases.append(_padding_bias(padding, keys) if padding.any() else None)
        order: Tensor | None = None
        if backend not in BY_SEGMENT and len(groups) > 1:
            order = torch.from_numpy(np.concatenate([group.segments for group in groups])).to(keys.device)
        # Zeros, since a slot of the padding is multiplied by a weight of zero, and garbage may be NaN.
        slots = groups[-1].end
        storage = cls(
            keys=keys.new_zeros(slots, keys.shape[-1]),
            values=values.new_zeros(slots, values.shape[-1]),
            groups=groups,
            biases=biases,
            order=order,
            chunks=Chunks.of(starts, kept + slack, keys.device, static) if backend == "triton" else None,
            begins=torch.from_numpy(starts).to(keys.device) if backend in VARLEN else None,
            starts=starts,
            kept=kept,
            stops=torch.from_numpy(starts + kept).to(keys.device),
            counter=counter,
            slack=slack,
            heads=heads,
            backend=backend,
        )
        if static:  # else CUDA graphs would copy all of it in every step
            for tensor in storage.tensors():
                torch._dynamo.mark_static_address(tensor)
        return storage

    def _copy(self, keys: Tensor, values: Tensor, source: Tensor, lengths: NDArray[np.int64]) -> None:
        """Fill the segments, with so many entries each, from the `source` slots of other flat tensors."""
        slots = slots_of(self.starts, lengths, source.device)
        self.keys[slots] = keys[source]
        self.values[slots] = values[source]

    def _become(self, other: "FlatStorage") -> None:
        self.__dict__.update(other.__dict__)


def _padding_bias(padding: NDArray[np.int64], like: Tensor) -> Tensor:
    """Additive mask [count, 1, most padding]: -inf at the first `padding` slots of each segment, else 0."""
    padded = torch.arange(int(padding.max())) < torch.from_numpy(padding)[:, None, None]
    return torch.zeros(padded.shape, dtype=like.dtype).masked_fill_(padded, -torch.inf).to(like.device)
