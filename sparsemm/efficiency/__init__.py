"""What the engine costs: benchmarks of latency and memory. Needs no more than a bare GPU machine has."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from sparsemm.configs import output_folder

Report = Callable[[int, int, str], None]
"""Called before every timed run: runs done, runs in all, what comes next."""


class Measured(NamedTuple):
    """What a benchmark gives.

    Attributes
    ----------
    path
        Its table.
    rows
        The rows that were asked for.
    shown
        The columns that say most, and their headings.
    unfinished
        What the same command would go on with, a line each.
    """

    path: Path
    rows: list[dict[str, Any]]
    shown: Mapping[str, str]
    unfinished: Sequence[str] = ()


def run(config: Mapping[str, Any], report: Report = lambda done, total, text: None) -> Measured:
    """Run the benchmark that ``config["benchmark"]`` names: a module of this package.

    Raises
    ------
    InputError
        Wrong options, found before anything runs.
    """
    output_folder(config["output"])
    return import_module(f"sparsemm.efficiency.{config['benchmark']}").run(config, report)
