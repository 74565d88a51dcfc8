"""What the device is, and the two rates that floors are made of."""

from __future__ import annotations

import platform
import statistics
import subprocess
from typing import Any

import torch

from sparsemm.efficiency.clocks import Clock, copy_bandwidth
from sparsemm.efficiency.machine import cpu_name
from sparsemm.models.loading import device_name
from sparsemm.recording import versions

PRODUCTS = 10
"""Timed matrix products, after three for warming up."""


def describe(device: torch.device, size: int) -> dict[str, Any]:
    """Name the machine and measure it.

    Parameters
    ----------
    device
        Where.
    size
        Rows and columns of the matrices whose bfloat16 product is timed.

    Returns
    -------
    dict
        ``copy_gb_s``: 10^9 bytes read and written in a second of copying; ``matmul_tflops``: 10^12 operations
        in a second of the product; names and versions.
    """
    found: dict[str, Any] = {
        "device": device_name(device),
        "cpu": cpu_name(),
        "driver": _driver(device),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        **versions(("torch", "transformers", "triton", "numpy")),
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found |= {"memory_bytes": about.total_memory, "multiprocessors": about.multi_processor_count}
    return found | {
        "copy_gb_s": copy_bandwidth(device) / 1e9,
        "matmul_tflops": _matmul_rate(device, size) / 1e12,
    }


def _matmul_rate(device: torch.device, size: int) -> float:
    one, other = torch.randn(2, size, size, device=device).bfloat16()  # zeros would run faster
    clock, took = Clock(device), []
    for number in range(3 + PRODUCTS):
        start = clock.mark()
        torch.matmul(one, other)
        end = clock.mark()
        clock.wait()
        if number >= 3:
            took.append(clock.seconds(start, end))
    return 2 * size**3 / statistics.median(took)


def _driver(device: torch.device) -> str | None:
    """Version of the driver; None where there is none, or its program does not tell."""
    if device.type != "cuda":
        return None
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.splitlines()[0].strip() if told.stdout.strip() else None
