"""What the engine costs: benchmarks of latency and memory. Needs no more than a bare GPU machine has."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

Report = Callable[[int, int, str], None]
"""Called before every timed run: runs done, runs in all, what comes next."""


def run(config: Mapping[str, Any], report: Report = lambda done, total, text: None) -> Any:
    """Run the benchmark that ``config["benchmark"]`` names: a module of this package."""
    return import_module(f"sparsemm.efficiency.{config['benchmark']}").run(config, report)
