"""The four local tasks: generated pages in the schemas, and under the metric code, of official benchmarks.

``tiny_docvqa`` asks forms, receipts and tables (docvqa_val: ANLS), ``tiny_ocr`` transcribes them (ocrbench:
is the answer, one line of the page, contained in it?), ``tiny_chartqa`` reads and compares bars (chartqa:
relaxed accuracy), ``tiny_textvqa`` reads signs (textvqa_val: exact match). They are made on first use, from
seeds, as parquet files with lmms-eval YAML beside them in the user's cache; `include_path` is what
lmms-eval's ``--include_path`` wants.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sparsemm.configs import InputError, check_ordinary
from sparsemm.documents import VERSION
from sparsemm.documents.drawn import SIZES
from sparsemm.evaluation import official
from sparsemm.evaluation.local_documents import DOCUMENTS, FACTS, TASKS, documents
from sparsemm.evaluation.task_files import TASK_FILES

if TYPE_CHECKING:
    import pandas as pd

TASKS_VERSION = 2
"""Raised whenever the same pages would give other questions or answers."""


def cache_folder() -> Path:
    """Where made data lie: ``$SPARSEMM_CACHE``, or ``sparsemm`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := os.environ.get("SPARSEMM_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sparsemm"


def identity(task: str, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a task's documents, questions and scores depend on.

    Parameters
    ----------
    task : str
    options : mapping, optional
        Its file of ``eval_configs/task``; official tasks need it.
    """
    if task in official.BENCHMARKS:
        return official.identity(task, options or {})
    config = yaml.load(TASK_FILES[task].replace("!function ", ""), yaml.SafeLoader)
    return {
        "task": config,
        "documents": DOCUMENTS,
        "tokens": list(SIZES),
        "first_seed": TASKS[task].first_seed,
        "generator": VERSION,
        "version": TASKS_VERSION,
    }


def metrics(task: str) -> list[str]:
    """Names of the metrics of a local task."""
    config = yaml.load(TASK_FILES[task].replace("!function ", ""), yaml.SafeLoader)
    return [entry["metric"] for entry in config["metric_list"]]


def include_path() -> Path:
    """Folder of the local tasks; made if it is not there yet, and only ever seen complete.

    Its name is a hash of everything that the data depend on, so that a changed generator never meets old
    pages.

    Raises
    ------
    InputError
        If there is no place for them: read-only, or a file.
    """
    key = hashlib.sha256(
        json.dumps([identity(task) for task in TASK_FILES], sort_keys=True).encode()
    ).hexdigest()
    folder = cache_folder() / "tasks" / key[:16]
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = folder.parent / f".making-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        beside.mkdir()
    except OSError as error:
        raise InputError(
            f"the local tasks' pages cannot be written into {folder.parent}: {error.strerror}; "
            "SPARSEMM_CACHE names another folder"
        ) from error
    print(f"drawing the pages of {len(TASK_FILES)} local tasks, once, into {folder}", file=sys.stderr)
    try:
        for task, text in TASK_FILES.items():
            _write_parquet(task, beside / f"{task}.parquet")
            (beside / f"{task}.yaml").write_text(text, encoding="utf-8")
        try:
            beside.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process was first: its folder is the same
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def check_data(task: str) -> None:
    """Look whether a local task's files are whole: lmms-eval would try for long, and say little.

    Raises
    ------
    InputError
        One line that names the damaged file, and how it is made again.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = include_path()
    file = folder / f"{task}.yaml"
    try:
        check_ordinary(file)
        if file.read_text(encoding="utf-8") != TASK_FILES[task]:
            raise ValueError("it is not what sparsemm wrote")
        file = folder / f"{task}.parquet"
        check_ordinary(file)
        with file.open("rb") as handle:
            table = pq.ParquetFile(handle).read()
        if lacking := sorted(documents(task, 1)[0].keys() - set(table.column_names)):
            raise ValueError(f"it lacks the columns {', '.join(lacking)}")
        if not len(table):
            raise ValueError("it holds no documents")
    except MemoryError:
        raise
    except (ValueError, OSError, pa.ArrowException) as error:
        if is_of_the_machine(error):
            raise OSError(f"cannot read {file}: {error}") from error
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(
            f"the data of the task {task} are damaged: {file}: {reason}; delete {folder}, and the same "
            "command makes them again"
        ) from error


def is_of_the_machine(error: Exception) -> bool:
    """Whether a file could not be read for want of memory, threads or open files: it is not damaged."""
    wants = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
    words = ("temporarily unavailable", "allocate memory", "start new thread", "too many open files")
    return getattr(error, "errno", None) in wants or any(word in str(error).lower() for word in words)


def facts(task: str) -> pd.DataFrame:
    """What each document of a local task is, by ``doc_id``: ``page``, ``asked``, ``tokens``.

    ``page`` is the kind of page, ``asked`` the kind of question (``ocr``: the transcription), ``tokens`` the
    page's visual tokens.
    """
    import pandas as pd

    table = pd.read_parquet(include_path() / f"{task}.parquet", columns=list(FACTS))
    return table.rename_axis("doc_id")


def _write_parquet(task: str, path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_list(documents(task)).cast_column("image", datasets.Image())
    datasets.disable_progress_bars()
    rows.to_parquet(path)
