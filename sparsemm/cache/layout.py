"""Where the segments of a flat storage lie: groups of equal capacity, chosen by cost."""

import heapq
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Backend = Literal["grouped", "loop", "padded", "triton", "torch_varlen", "flash_attn"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
VARLEN: tuple[Backend, ...] = ("torch_varlen", "flash_attn")
"""Variable-length attention of libraries."""

BY_SEGMENT: tuple[Backend, ...] = ("triton", *VARLEN)
"""Backends that read each segment where it lies: they need no groups, and no padding."""

# One more group costs a handful of small operations: taken as the time to read this many stored numbers of
# K and V. What it leads to: tests/cache/decode_benchmark.py.
GROUP_OVERHEAD = 50_000
# Padding inside groups never exceeds this share of the entries really kept, whatever it would save in time:
# with the lists of where things are, a cache stays within 2% of what its budget promises. On a CPU more
# groups cost little (tests/cache/decode_benchmark.py).
MAX_PADDING = 0.015


@dataclass(frozen=True)
class Group:
    """Segments of one capacity, side by side in the flat storage.

    Parameters
    ----------
    segments
        Segment numbers (batch row * KV heads + KV head) in storage order, shape [count].
    width
        Most prompt entries kept by a segment of the group; shorter ones are aligned to the right of it.
    offset
        First slot of the group.
    capacity
        Slots of each segment: width plus the slack for appended tokens.
    count
        Segments.
    """

    segments: NDArray[np.int64]
    width: int
    offset: int
    capacity: int
    count: int

    @property
    def end(self) -> int:
        """First slot after the group."""
        return self.offset + self.count * self.capacity


def partition(lengths: NDArray[np.int64], entry_size: int, backend: Backend) -> list[NDArray[np.int64]]:
    """Divide segments into groups whose members are padded to the longest of them.

    ``padded`` gives one group to all; every other backend but ``grouped`` gives each segment its own.
    ``grouped`` starts with one group and splits where a split saves most padding, as long as that costs less
    time than the padding did, or as long as the padding is more than `MAX_PADDING` of the entries: equal
    heads end in one group, unequal ones in many.

    Parameters
    ----------
    lengths
        Kept prompt entries of each segment, shape [segments].
    entry_size
        Numbers stored for one entry, K and V together.
    backend
        Name of the decode backend.

    Returns
    -------
    list of arrays
        Segment numbers of each group, ascending; together every segment once.
    """
    count = len(lengths)
    if backend == "loop" or backend in BY_SEGMENT:
        return [np.array([segment]) for segment in range(count)]
    if backend == "padded":
        return [np.arange(count)]
    order = np.argsort(lengths, kind="stable")
    ordered = lengths[order]
    overhead = GROUP_OVERHEAD / entry_size
    used = int(ordered.sum())
    padded = count * int(ordered[-1])
    done: list[tuple[int, int]] = []
    waiting = [_best_split(ordered, 0, count)]
    while waiting:
        negative, low, middle, high = heapq.heappop(waiting)
        saved = -negative
        if saved == 0 or (saved <= overhead and padded <= used * (1 + MAX_PADDING)):
            done.append((low, high))
            done.extend((low, high) for _, low, _, high in waiting)
            break
        padded -= saved
        heapq.heappush(waiting, _best_split(ordered, low, middle))
        heapq.heappush(waiting, _best_split(ordered, middle, high))
    return [np.sort(order[low:high]) for low, high in sorted(done)]


def _best_split(ordered: NDArray[np.int64], low: int, high: int) -> tuple[int, int, int, int]:
    """Return (minus the padding saved, low, middle, high) of the best split of a run of ascending lengths."""
    if high - low < 2:
        return 0, low, low, high
    counts = np.arange(1, high - low)
    savings = counts * (ordered[high - 1] - ordered[low : high - 1])
    best = int(savings.argmax())
    return -int(savings[best]), low, low + best + 1, high


def lay_out(lengths: NDArray[np.int64], slack: int, entry_size: int, backend: Backend) -> list[Group]:
    """Give every group of `partition` its place in the flat storage; parameters as there, slack in slots."""
    groups: list[Group] = []
    offset = 0
    for segments in partition(lengths, entry_size, backend):
        width = int(lengths[segments].max())
        groups.append(Group(segments, width, offset, width + slack, len(segments)))
        offset = groups[-1].end
    return groups


def slots_of(starts: NDArray[np.int64], lengths: NDArray[np.int64], device: torch.device) -> Tensor:
    """List all slots of contiguous segments, one segment after another, int64 [sum(lengths)].

    It is made on the device: there may be as many as entries in a whole prompt.
    """
    before = np.cumsum(lengths) - lengths
    counts, offsets = (torch.from_numpy(numbers).to(device) for numbers in (lengths, starts - before))
    total = int(lengths.sum())
    return torch.repeat_interleave(offsets, counts, output_size=total) + torch.arange(total, device=device)
