"""Failures below lmms-eval's command line end the process with an exit code that says so."""

from __future__ import annotations

import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from sparsemm.configs import InputError

BAD_INPUT, FAILED = 2, 1


@contextmanager
def exit_codes() -> Iterator[None]:
    """Let lmms-eval's command line end with exit code 2 for `InputError`, and 1 for any other exception.

    lmms-eval's ``cli_evaluate`` prints every `Exception` of a run and goes on to exit code 0. `SystemExit`
    is none, so it passes, closes what lmms-eval has open, and ends this process only (its launcher then ends
    the others). It is raised below ``cli_evaluate`` alone: who constructs the model or calls
    ``simple_evaluate`` gets the exception itself, and so does ``--verbosity=DEBUG``, with which lmms-eval
    raises what it gets: a traceback, and Python's exit code 1.

    Raises
    ------
    SystemExit
        Only below ``cli_evaluate``; bad input has given one line on stderr, anything else its traceback.
    """
    try:
        yield
    except Exception as error:
        if not _below_command_line() or os.environ.get("VERBOSITY") == "DEBUG":
            raise
        if isinstance(error, InputError):
            print(f"sparsemm: {' '.join(str(error).split())}", file=sys.stderr)
            raise SystemExit(BAD_INPUT) from error
        traceback.print_exc()
        raise SystemExit(FAILED) from error


def _below_command_line() -> bool:
    """Say whether lmms-eval's ``cli_evaluate``, which would swallow an exception, is among the callers."""
    module = sys.modules.get("lmms_eval.__main__")  # also with `python -m`, whose own module only starts it
    command = getattr(module, "cli_evaluate", None)
    if command is None:
        return False
    return any(frame.f_code is command.__code__ for frame, _ in traceback.walk_stack(inspect.currentframe()))
