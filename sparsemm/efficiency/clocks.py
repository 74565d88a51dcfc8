"""What is read off the device: time, peak memory, and how fast it copies."""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

COPIES = 6
"""Copies that the bandwidth is the median of, after as many for warming up."""


class Clock:
    """Marks in time: events on the device's stream with CUDA, else the host's clock.

    A mark never waits. Between two marks of a CUDA stream lies what it worked and what it waited for the
    host, so that launching slowly costs as much as it does in use.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def mark(self) -> Any:
        """Now."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> None:
        """Let the device finish; to be called before marks are read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, start: Any, end: Any) -> float:
        """From one mark to another."""
        return start.elapsed_time(end) / 1e3 if self.device.type == "cuda" else end - start


class Peak:
    """Most memory in use since `begin`, above what was in use when it was made.

    With CUDA the caching allocator's bytes in tensors; under Linux the process's resident set, whose peak
    the kernel keeps, so that counting costs no time; elsewhere nothing is known.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device if device.type == "cuda" else None
        gc.collect()
        if not self.cuda:
            trim()
        self.base = torch.cuda.memory_allocated(device) if self.cuda else _status("VmRSS")

    def begin(self) -> None:
        """Forget the peak so far."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.cuda)
        else:
            try:
                Path("/proc/self/clear_refs").write_text("5")
            except OSError:
                self.base = None

    def bytes(self) -> int | None:
        """The peak; None where the system does not tell."""
        now = torch.cuda.max_memory_allocated(self.cuda) if self.cuda else _status("VmHWM")
        return None if now is None or self.base is None else max(0, now - self.base)


def release() -> None:
    """Give back to device and system what is no longer used."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim()


def trim() -> None:
    """Let glibc return freed pages, so that the resident set is what is in use; nothing elsewhere."""
    malloc_trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


@contextmanager
def only_new_objects_collected() -> Iterator[None]:
    """Let Python's collector pass over all that is there now: libraries and models, hundreds of thousands.

    It would stop timed steps for as long as some of them take.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of copying a tensor far larger than any cache of the device."""
    clock = Clock(device)
    source = torch.ones(2**30 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = []
    for _ in range(2 * COPIES):
        start = clock.mark()
        target.copy_(source)
        end = clock.mark()
        clock.wait()
        took.append(clock.seconds(start, end))
    return 2 * len(source) / statistics.median(took[COPIES:])


def free_bytes() -> int | None:
    """Memory that a process may still take, on Linux."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)
