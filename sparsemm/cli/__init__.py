"""The command line: ``sparsemm VERB …``.

Verbs that run something are configured by Hydra (`running`, ``eval_configs/<verb>.yaml``); those that look at
results take a path (`looking`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sparsemm.cli.looking import PATH_VERBS
from sparsemm.cli.running import HYDRA_VERBS, run_hydra, show
from sparsemm.configs import InputError, nearest

__all__ = ["HYDRA_VERBS", "PATH_VERBS", "main"]

USAGE = """\
usage: sparsemm VERB [options]

Which KV entries of a multimodal LLM to keep, head by head, and what that costs in accuracy.

run something (options are Hydra overrides, `sparsemm VERB --help` lists them):
  sweep        measure tasks x methods x budgets; finished cells are skipped
                 sparsemm sweep experiment=demo
                 sparsemm sweep task=[tiny_docvqa] method=[snapkv,sparsemm] budget=[16,32]
                 sparsemm sweep -m method=snapkv,adakv budget=16,32
                 sparsemm sweep -m task=tiny_docvqa,tiny_ocr hydra/launcher=slurm
  heads        find a model's visual heads and write their scores
  doctor       does compression work with this model? one prompt, checked
                 sparsemm doctor model=qwen2_vl_7b
  train-tiny   train the embedded model
  efficiency   measure what the engine costs; the benchmark's name comes first
                 sparsemm efficiency fanout documents=64
                 sparsemm efficiency decode shapes=[checkpoint] lengths=[1024]
                 sparsemm efficiency kvpress python=kvpress-env/bin/python

look at results and names:
  figures RESULTS                              draw the figures of a results folder
          [--width column|full] [--efficiency FOLDER] [--paper]
  report RESULTS [-o FILE.html] [--serve]      one page: tables, charts, every sample; --serve follows a sweep
  status RESULTS                               how far a sweep is, also while it runs
  overlap HEADS OTHER [--output FILE.csv]      what top heads two files of head scores have in common
  list methods|models|tasks [--include-path]   what can be named; where lmms-eval finds the local tasks

--version, --help"""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the machine or of a device, did not suffice."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(
        said in words for said in ("out of memory", "can't allocate memory", "can't start new thread")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Bad input gives one line on stderr and exit code 2; with ``HYDRA_FULL_ERROR=1`` in the environment, the
    traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"sparsemm {version('sparsemm')}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb in HYDRA_VERBS:
            return show(verb, run_hydra(verb, rest))
        if verb in PATH_VERBS:
            return PATH_VERBS[verb](rest)
        raise InputError(f"unknown verb {verb!r}; {nearest(verb, [*HYDRA_VERBS, *PATH_VERBS])}")
    except SystemExit as end:  # argparse and Hydra end so after --help and after their own messages
        return int(end.code or 0)
    except KeyboardInterrupt:
        print("sparsemm: interrupted; what was answered is kept, the same command goes on", file=sys.stderr)
        return 130
    except (MemoryError, RuntimeError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not lacks_memory(error):
            raise
        shown = " ".join(str(error).split()) or "Python could not allocate any more"
        print(f"sparsemm: the memory does not suffice: {shown}", file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"sparsemm: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
