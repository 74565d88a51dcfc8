"""How many documents and rows are decoded at the same time, so that memory suffices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PretrainedConfig

from sparsemm.cache import model_shape
from sparsemm.evaluation.killed import StepFile
from sparsemm.methods import ModelShape

SHARE = 0.5
"""Share of the free memory that is used when no limit is given: an estimate may be wrong by that much."""

WORKSPACE = 3
"""Copies of a step's scores and logits that are alive at the same time, at most."""


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return max(0, min(psutil.virtual_memory().available, *_left_in_containers(), *_left_of_addresses()))


def _left_in_containers(root: Path = Path("/sys/fs/cgroup"), membership: str | None = None) -> list[int]:
    """Bytes left of the limits of this process's control groups (version 1 and 2), outer ones included.

    What a group holds of files it gives back when it is needed, so that does not count as used.
    """
    try:
        lines = (membership or Path("/proc/self/cgroup").read_text()).splitlines()
    except OSError:  # not Linux
        return []
    left = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        names = ("memory.max", "memory.current")
        if controllers:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        group = top / path.lstrip("/")
        # In a container, the path is the host's and not there: the group is the top itself.
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            try:
                limit, used = ((folder / name).read_text().strip() for name in names)
                files = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):
                continue
            if limit != "max":
                given_back = int(files.get("total_inactive_file", files.get("inactive_file", 0)))
                left.append(int(limit) - int(used) + given_back)
    return left


def _left_of_addresses() -> list[int]:
    """Bytes left of ``ulimit -v``, if there is one."""
    import resource

    import psutil

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return [] if limit == resource.RLIM_INFINITY else [limit - psutil.Process().memory_info().vms]


def document_bytes(shape: ModelShape, prompt_length: int, itemsize: int) -> int:
    """Bytes of a prompt's K/V in all layers, once as it came and once as its rows read it."""
    entry = 2 * shape.head_dim * itemsize
    return 2 * shape.num_hidden_layers * shape.num_key_value_heads * prompt_length * entry


def row_bytes(
    shape: ModelShape, prompt_length: int, max_new_tokens: int, itemsize: int, vocabulary: int
) -> int:
    """Bytes of a decoded row: what it hides of the prompt, its own K/V, its part of a step's workspace."""
    room = 2 * max_new_tokens  # the room for new tokens doubles
    hidden = shape.num_key_value_heads * prompt_length * torch.float32.itemsize
    own = shape.num_key_value_heads * room * 2 * shape.head_dim * itemsize
    scores = shape.num_attention_heads * (prompt_length + max_new_tokens)
    return (
        shape.num_hidden_layers * (hidden + own) + WORKSPACE * (scores + vocabulary) * torch.float32.itemsize
    )


class Step(NamedTuple):
    """What is decoded at the same time: documents, and rows (a document under a method is one)."""

    documents: int
    rows: int


@dataclass
class Limits:
    """Bounds of one step; the numbers are learned where memory did not suffice.

    Attributes
    ----------
    fit
        How much of a step fits, given also the tokens of its prompts and of questions that come after
        compression; None: all of it.
    documents, rows
        Most at a time; None: no bound.
    step_file
        Told which step is in progress.
    say
        Called with one line when a bound was learned.
    """

    fit: Callable[[Step, int, int], Step] | None = None
    documents: int | None = None
    rows: int | None = None
    step_file: StepFile | None = None
    say: Callable[[str], None] = print

    def step(self, wanted: Step, prompt_length: int, question: int = 0) -> Step:
        """How much of `wanted` to take at a time, at least one row of one document."""
        step = wanted if self.fit is None else self.fit(wanted, prompt_length, question)
        bounds = (most for most in (step.rows, self.rows) if most is not None)
        return Step(step.documents, min(bounds))

    def holding(self, step: Step) -> AbstractContextManager[None]:
        """A context in which a step is in progress."""
        return nullcontext() if self.step_file is None else self.step_file.holding(*step)

    def shrink(self, step: Step, why: str = "out of memory") -> bool:
        """Halve what did not fit, documents first; False if it was one row of one document."""
        if step.documents > 1:
            self.documents = step.documents // 2
            self.say(f"{why}: from now on {self.documents} documents at a time, with the same results")
        elif step.rows > 1:
            self.rows = step.rows // 2
            self.say(f"{why}: from now on {self.rows} rows at a time, with the same results")
        else:
            return False
        return True


def steps_that_fit(
    limit: int,
    config: PretrainedConfig,
    dtype: torch.dtype,
    *,
    max_new_tokens: int,
    max_rows: int | None = None,
) -> Callable[[Step, int, int], Step]:
    """Return a function: how much of a step fits into `limit` bytes.

    It takes the step, the tokens of the prompts, and those of questions after compression, which rows hold as
    they hold what they generate.

    Parameters
    ----------
    limit : int
        Bytes, weights not counted.
    config, dtype
        The text model's.
    max_new_tokens : int
    max_rows : int, optional
        An upper bound.
    """
    shape, vocabulary = model_shape(config), config.vocab_size

    def fit(wanted: Step, prompt_length: int, question: int = 0) -> Step:
        document = document_bytes(shape, prompt_length, dtype.itemsize)
        row = row_bytes(shape, prompt_length, question + max_new_tokens, dtype.itemsize, vocabulary)
        documents = min(wanted.documents, max(1, (limit - row) // document))
        rows = min(wanted.rows, max(1, (limit - documents * document) // row))
        return Step(documents, rows if max_rows is None else min(rows, max_rows))

    return fit
