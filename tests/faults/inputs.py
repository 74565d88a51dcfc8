"""What a command may be given that is wrong, and what it must say: add a row.

Every command is run in a folder of its own that holds ``file`` (a text), ``folder`` (empty), ``fifo`` (a pipe
that nobody writes to) and what `Fault.made` adds. It must end with one line on stderr that holds the text,
with exit code 2, and leave nothing behind.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """A command, the text that its line must hold, and what must lie in its folder."""

    command: str
    says: str
    made: Callable[[], object] | None = None


def sweep(option: str) -> str:
    return f"sweep task=[tiny_ocr] method=[snapkv] limit=1 max_new_tokens=4 {option}"


def holding(name: str, text: str | None) -> Callable[[], object]:
    """Makes a file with this text; None: a pipe."""

    def make() -> None:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(path) if text is None else path.write_text(text, encoding="utf-8")

    return make


def piped_checkpoint() -> None:
    """A checkpoint with a pipe in it."""
    holding("own/config.json", "{}")()
    holding("own/processor_config.json", None)()


def folder_for_a_store() -> None:
    """A folder where a store file is due."""
    Path("r/responses/0.sqlite").mkdir(parents=True)


HUGE = "99999999999999999999"
NUMBERS = [
    *(Fault(sweep(f"{name}={HUGE}"), f"{name} must be at most 2147483647") for name in ("budget", "limit")),
    Fault(sweep(f"batch_size={HUGE}"), "batch_size must be at most"),
    Fault(sweep("batch_size=1e20"), "batch_size must be a positive integer, got 1e+20"),
    Fault(sweep(f"max_rows={HUGE}"), "max_rows must be at most"),
    Fault(sweep(f"max_new_tokens={HUGE}"), "max_new_tokens must be at most"),
    Fault(sweep(f"model.window={HUGE}"), "window must be at most"),
    Fault(sweep(f"method=[random] methods.random.seed={HUGE}"), "seed must be at most"),
    Fault(sweep("budget=inf"), "a share of the prompt in (0, 1]"),
    Fault(sweep("limit=nan"), "limit must be a positive integer"),
    Fault(sweep("limit={a: 1}"), "sweep has no option 'limit.a'; did you mean limit?"),
    Fault(f"heads n={HUGE}", "n must be at most"),
    Fault(f"heads seed={HUGE}", "seed must be at most"),
    Fault(f"doctor max_new_tokens={HUGE}", "max_new_tokens must be at most"),
    Fault(f"efficiency fanout documents={HUGE}", "documents must be a positive integer"),
    Fault(f"efficiency decode lengths=[{HUGE}]", "lengths must be a list of positive integers"),
]
TAKEN_OUT = [
    *(Fault(sweep(f"~{name}"), f"option {name} is needed") for name in ("budget", "model.window", "plan")),
    Fault(sweep("~model"), "option model is needed"),
    Fault(sweep("~tasks.tiny_ocr.metric"), "option tasks.tiny_ocr.metric is needed"),
    Fault("heads ~n", "option n is needed"),
    Fault("doctor ~budget", "option budget is needed"),
    Fault("efficiency fanout ~rounds", "option rounds is needed"),
    Fault("train-tiny ~seed", "option seed is needed"),
]
KINDS = [
    *(
        Fault(sweep(f"model.pretrained={value}"), "model.pretrained must be a folder or a name on the hub")
        for value in ("null", "[a]", "{a: 1}", "3", "true")
    ),
    *(Fault(sweep(f"model.name={value}"), "model.name must be a name") for value in ("[a]", "2025", "true")),
    Fault(sweep("tasks.tiny_ocr.metric=nope"), "the task tiny_ocr has no metric 'nope'; known: ocrbench_acc"),
    Fault(sweep("tasks.tiny_ocr.metric=3"), "tasks.tiny_ocr.metric must be a text, got 3"),
    Fault(sweep("device=[a]"), "device must be a device"),
    Fault(sweep("model.quantization=[a]"), "model.quantization must be options"),
    Fault("heads model.pretrained=[a]", "model.pretrained must be"),
    Fault("doctor model.pretrained=null", "model.pretrained must be"),
    Fault("doctor image=3", "image must be a picture's file"),
    Fault("doctor prompt=[a]", "prompt must be a text"),
    Fault("doctor device=[a]", "device must be a device"),
    Fault("efficiency fanout workloads=3", "workloads must be a list"),
    Fault("efficiency fanout methods=3", "methods must be a list"),
    Fault("efficiency decode device=[a]", "device must be a device"),
    Fault("efficiency decode output=null", "output must name a folder"),
    Fault("efficiency fanout output=5", "output must name a folder"),
    Fault("efficiency fanout output=file", "output=file: file is no folder"),
    Fault("efficiency fanout output=file/a/b", "output=file/a/b: file is no folder"),
    Fault("sweep experiment=demo output=file/x", "output=file/x: file is no folder"),
    Fault("sweep experiment=demo output=null", "output must name a folder, got None"),
    Fault("heads output=file/x.safetensors", "output=file: file is no folder"),
    Fault(
        "heads output=o.safetensors",
        "output=o.safetensors is a folder: name a file in it",
        lambda: Path("o.safetensors").mkdir(),
    ),
    Fault("train-tiny output=file", "output=file: file is no folder"),
]
PATHS = [
    Fault(sweep("model.pretrained=fifo"), "no checkpoint in fifo"),
    Fault(sweep("model.pretrained=own"), "neither a file nor a folder", piped_checkpoint),
    Fault("doctor image=fifo", "it is neither a file nor a folder"),
    Fault("doctor image=folder", "image=folder cannot be read: Is a directory"),
    Fault("heads documents=fifo output=o.safetensors", "there is no such folder or file"),
    Fault("overlap fifo fifo", "no head scores at fifo"),
    Fault("report fifo", "no such folder: fifo"),
    Fault("status fifo", "no results at fifo"),
    Fault(
        "sweep task=[docvqa_val] method=[snapkv] budget=16 tasks.docvqa_val.data_files=fifo",
        "fifo cannot be used: it is neither a file nor a folder",
    ),
    Fault(
        "status r",
        "cannot read r/responses/0.sqlite",
        folder_for_a_store,
    ),
    Fault("status r", "0.sqlite: it is no file", holding("r/responses/0.sqlite", None)),
]
FILES = [
    *(
        Fault("sweep --config-dir own method=mine", says, holding("own/method/mine.yaml", text))
        for text, says in (
            ("a: [1", "mine.yaml"),
            ("a:\n\t- b", "mine.yaml"),
            ("[" * 3000, "nested too deeply"),
        )
    ),
    Fault(f"sweep budget={'[' * 400}{']' * 400}", "nested too deeply"),
    Fault("sweep budget=${budget}", "budget: Recursive interpolation"),
    Fault("report r", "r", holding("r/run.json", "[" * 100_000)),
]
