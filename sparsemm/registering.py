"""The attention "sparsemm" is known to transformers whenever a model can be loaded, and costs nothing before.

Registering it imports torch and the engine: seconds, which help, lists and tables should not take. So it
waits for the module of transformers without which there is no model; that, or this package, may come first.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

REGISTRY = "transformers.modeling_utils"
"""Where transformers looks attention functions up; ``from_pretrained`` is in it."""


def register_with_transformers() -> None:
    """Register at once if `REGISTRY` is imported already, else when it is."""
    if REGISTRY in sys.modules:
        import_module("sparsemm.cache")
    else:
        sys.meta_path.insert(0, _Await())


class _Await:
    """Lets the other finders find `REGISTRY`; has the attention registered when it was executed, and goes."""

    looking = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != REGISTRY or self.looking:
            return None
        self.looking = True
        try:
            spec = find_spec(name)
        finally:
            self.looking = False
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def then_register(module: Any) -> None:
                execute(module)
                loader.exec_module = execute
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                import_module("sparsemm.cache")  # in the midst of its own import it registers at its end

            loader.exec_module = then_register
        return spec
