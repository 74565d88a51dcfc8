"""A task's own aggregation: named in a cell's file, found again by it, called without leaving traces."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import logging
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

NAME = re.compile(r"(?P<module>(lmms_eval|sparsemm)(\.[\w-]+)+):(?P<function>\w+)")
"""A name comes from a file: nothing outside these two packages is imported for it."""

IDENTIFIER = re.compile(r"(^|_)(id|index)$|Id$")
"""Keys of a document's input under which aggregations group documents (``question_id``, ``image_id``)."""


def name_of(function: Callable[..., Any]) -> str | None:
    """``module:function`` of an aggregation; None if it is no plain function of lmms-eval or sparsemm.

    lmms-eval loads the files of a task under short names of their own (``utils``): the module is that of the
    file.
    """
    if not isinstance(function, FunctionType) or function.__globals__.get(function.__name__) is not function:
        return None
    root = importlib.util.find_spec("lmms_eval")
    folder = Path(root.origin).parent if root is not None and root.origin else None
    file, module = Path(function.__code__.co_filename), function.__module__
    if folder is not None and file.is_relative_to(folder):
        module = ".".join(("lmms_eval", *file.relative_to(folder).with_suffix("").parts))
    name = f"{module}:{function.__name__}"
    return name if NAME.fullmatch(name) else None


def find(name: str) -> Callable[[], Callable[..., Any]]:
    """Return what gives the aggregation of a name, anew for every call of it.

    Some tasks count in variables of their module (ocrbench), so that a second call would add to the first:
    modules of tasks are executed again each time, which takes less than a millisecond once all that they
    import is imported.

    Raises
    ------
    ValueError
        If the name is not of lmms-eval or sparsemm, or there is no such function.
    """
    parts = NAME.fullmatch(name) if isinstance(name, str) else None
    if parts is None:
        raise ValueError(f"{name!r} is no aggregation of lmms_eval or sparsemm (module:function)")
    path, attribute = parts["module"], parts["function"]
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise ValueError(f"the aggregation {name} cannot be imported: {error}") from error
    found = getattr(module, attribute, None)
    if not isinstance(found, FunctionType) or found.__module__ != path:
        raise ValueError(f"there is no aggregation {attribute} in {path}")
    spec = module.__spec__
    if not path.startswith("lmms_eval.tasks.") or spec is None or spec.loader is None:
        return lambda: found
    loader = spec.loader

    def anew() -> Callable[..., Any]:
        fresh = importlib.util.module_from_spec(spec)
        loader.exec_module(fresh)
        return getattr(fresh, attribute)

    return anew


def call(function: Callable[..., Any], inputs: list[Any], folder: str) -> float:
    """Aggregate as lmms-eval does: functions with a parameter ``args`` may write files to `folder`."""
    if "args" in inspect.signature(function).parameters:
        return float(function(inputs, args=cli_args(folder)))
    return float(function(inputs))


def cli_args(folder: str) -> Namespace:
    """What lmms-eval hands to tasks of its command line."""
    return Namespace(output_path=folder, process_with_media=False, reasoning_tags=None)


def copy_of(text: str, copy: int) -> str:
    """A document's input (JSON) as that of another document.

    A document drawn twice is two documents. Aggregations that look documents up by an identifier would take
    them for one, so every copy but the first gets identifiers of its own; the documents of one cluster, which
    may belong together (two questions of MME on one image), get the same.
    """
    value = json.loads(text) if copy else None
    if not isinstance(value, dict):
        return text
    for key, entry in value.items():
        if IDENTIFIER.search(key) and isinstance(entry, str):
            value[key] = f"{entry}#{copy}"
        elif IDENTIFIER.search(key) and isinstance(entry, int) and not isinstance(entry, bool):
            value[key] = entry + copy * 10**9
    return json.dumps(value)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what aggregations print and log, and what programs print that they start (CIDEr's tokenizer)."""
    from loguru import logger

    sys.stdout.flush()
    sys.stderr.flush()
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    logger.disable("lmms_eval")
    kept = [os.dup(number) for number in (1, 2)]
    try:
        with Path(os.devnull).open("w") as nothing:
            for number in (1, 2):
                os.dup2(nothing.fileno(), number)
            with contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
                yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        logger.enable("lmms_eval")
        logging.disable(level)
