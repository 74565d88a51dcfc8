"""Segments cut into chunks of one size: the work list of split-KV decoding."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Chunks wanted of one layer: some for each of a large GPU's processors. Few entries make small chunks, within
# limits: below, partial results would be as large as the entries; above, no processor lacks work.
WANTED = 512
SMALLEST, LARGEST = 64, 1024
# Segments of one capacity up to this are a chunk each: reading them in turn takes no longer than merging.
ALONE = 512
INDEX_BYTES = torch.int32.itemsize


class Chunks(NamedTuple):
    """Work list of the segments of one layout, on the device.

    It is made once, and lists the chunks of the slack too, which are empty at first: a decode step makes no
    list, and what it launches does not depend on how long segments are.

    Parameters
    ----------
    size
        Entries of a chunk; the last of a segment is shorter.
    starts
        First slot of each segment, int64 [segments].
    listed
        Segment and number within it of each chunk, int32 [chunks, 2].
    firsts
        Place in `listed` of each segment's first chunk, and the one behind all, int32 [segments + 1].
    """

    size: int
    starts: Tensor
    listed: Tensor
    firsts: Tensor

    @classmethod
    def of(
        cls,
        starts: NDArray[np.int64],
        capacities: NDArray[np.int64],
        device: torch.device,
        static: bool = False,
    ) -> "Chunks":
        """List the chunks of segments with room for so many entries, slack included.

        A static list is as long as any of so many segments and entries can be: empty chunks, of the first
        segment, fill it up. So a compiled step holds for all of them (segments that are a chunk each have a
        step of their own).
        """
        size, counts = sizes(capacities)
        firsts = np.concatenate([[0], np.cumsum(counts)])
        segments = np.repeat(np.arange(len(counts)), counts)
        listed = np.stack([segments, np.arange(len(segments)) - firsts[segments]], axis=1)
        if static and len(listed) > len(counts):
            missing = int(capacities.sum()) // size + len(counts) - len(listed)
            listed = np.concatenate([listed, np.full((missing, 2), (0, counts[0]))])
        narrow = (torch.from_numpy(numbers.astype(np.int32)).to(device) for numbers in (listed, firsts))
        return cls(size, torch.from_numpy(starts.copy()).to(device), *narrow)

    def tensors(self) -> list[Tensor]:
        """Every tensor that the list keeps alive."""
        return [self.starts, self.listed, self.firsts]


def sizes(capacities: NDArray[np.int64]) -> tuple[int, NDArray[np.int64]]:
    """Return the size of a chunk, a power of two, and how many chunks each segment has."""
    most = int(capacities.max())
    if most <= ALONE and most == capacities.min():
        return max(SMALLEST, 2 ** math.ceil(math.log2(most))), np.ones_like(capacities)
    wanted = 2 ** math.ceil(math.log2(capacities.sum() / WANTED))
    size = int(np.clip(wanted, SMALLEST, LARGEST))
    return size, -(-capacities // size)


def chunks_bytes(capacities: NDArray[np.int64]) -> int:
    """Bytes of `Chunks.of` these capacities."""
    _, counts = sizes(capacities)
    return len(counts) * torch.long.itemsize + (len(counts) + 1 + 2 * int(counts.sum())) * INDEX_BYTES
