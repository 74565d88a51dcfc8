"""Public names that are imported when they are first used: who takes one does not pay for all (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names_from(
    package: str, homes: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make a package's ``__getattr__`` and ``__dir__``.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    homes : mapping
        Each name, and the module below the package that holds it; a module's own name stands for itself, so
        nothing else may be called as a module of the package is.
    """
    own = vars(sys.modules[package])

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = import_module(f"{package}.{homes[name]}")
        own[name] = home if name == homes[name] else getattr(home, name)
        return own[name]

    return find, lambda: sorted({*own, *homes})
