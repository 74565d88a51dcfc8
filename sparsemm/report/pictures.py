"""The documents of the tasks as the sample explorer shows them: question and a small picture."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from sparsemm.configs import InputError, is_within
from sparsemm.evaluation.embedded import picture
from sparsemm.evaluation.official import BENCHMARKS, local_files
from sparsemm.evaluation.task_files import TASK_FILES
from sparsemm.evaluation.tasks import check_data, include_path

STEPS = ((640, 60), (512, 50), (384, 45), (288, 40), (256, 25), (192, 25), (144, 20), (96, 15))
"""Longest side in pixels and WebP quality, from the best down; the first that is small enough is taken."""

TRIED = 24
"""Documents, evenly spread, by which a step is chosen."""

OPTIONS = ("options", *"ABCD")
"""Columns with the choices that a question offers."""


class Shown(NamedTuple):
    """A document: what is asked, hashes of its image's pixels as samples.parquet may have them, a small WebP.

    The picture is in base64; where there is none, `problem` says why.
    """

    question: str
    images: tuple[str, ...]
    picture: str
    problem: str = ""


def documents_of(
    task: str, options: Mapping[str, Any], given: str | None, count: int, limit: int, folder: Path
) -> list[Shown]:
    """The first documents of a task.

    Parameters
    ----------
    task : str
    options : mapping
        The task's part of the sweep's configuration.
    given : str, optional
        Parquet files of the task, in the place of those that the sweep had: a file, a folder or a pattern.
    count : int
        Documents.
    limit : int
        Bytes that all pictures together may have, in base64.
    folder : Path
        The results folder: what it says of files elsewhere is not heeded, since it may come from anywhere.

    Raises
    ------
    InputError
        One line that says why there are none.
    """
    if task in TASK_FILES:
        if given is not None:
            raise InputError(f"--data is for official tasks: the pages of {task} are drawn from seeds")
        check_data(task)
        files = [include_path() / f"{task}.parquet"]
    elif task in BENCHMARKS and given:
        files = local_files(task, {**options, "data_files": given})
    elif task in BENCHMARKS and options.get("data_files"):
        named = str(options["data_files"])
        files = local_files(task, {**options, "data_files": named}) if is_within(Path(named), folder) else []
        if not files or not all(is_within(file, folder) for file in files):
            raise InputError(f"its data are not in the folder; give them: --data {task}=FILES")
    elif task in BENCHMARKS:
        raise InputError(f"its data came from the hub; give them as parquet files: --data {task}=FILES")
    else:
        raise InputError("it is no task that this sparsemm knows")
    return _read(tuple(files), count, limit)


@cache
def _read(files: tuple[Path, ...], count: int, limit: int) -> list[Shown]:
    """Kept in memory: a served report is built often, always with the same documents."""
    every = max(1, count // TRIED)
    tried = [row for at, row in enumerate(_rows(files, count)) if at % every == 0]
    side, quality = STEPS[-1]
    for side, quality in STEPS:
        spent = [len(_shown(row, side, quality).picture) for row in tried]
        if sum(spent) * count <= limit * len(spent):
            break
    return [_shown(row, side, quality) for row in _rows(files, count)]


def _rows(files: Sequence[Path], count: int) -> Iterator[dict[str, Any]]:
    """The first documents: `doc_id` is the place in all files together."""
    import pyarrow.parquet as pq

    left = count
    for file in files:
        with pq.ParquetFile(file) as parquet:
            columns = [name for name in ("image", "question", *OPTIONS) if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(batch_size=64, columns=columns):
                for row in batch.to_pylist():
                    if left <= 0:
                        return
                    left -= 1
                    yield row


def _shown(row: Mapping[str, Any], side: int, quality: int) -> Shown:
    held = row.get("image")
    content = held.get("bytes") if isinstance(held, dict) else held
    if not isinstance(content, bytes):
        return Shown(_question(row), (), "", "there is none in the data")
    from sparsemm.evaluation.generation import image_key  # here, because it needs torch

    try:
        image = picture({"bytes": content, "path": None})  # turned as the sweep saw it
        rgb = image.convert("RGB")
        # Most tasks' code gives the model the image as RGB, some as it is.
        seen = dict.fromkeys(
            image_key([{"role": "user", "content": [{"type": "image", "image": form}]}])
            for form in (image, rgb)
        )
        return Shown(_question(row), tuple(seen), _picture(rgb, side, quality))
    except Exception as error:  # decoders raise whatever they stumble over
        return Shown(_question(row), (), "", str(error) or type(error).__name__)


def _picture(image: Image.Image, side: int, quality: int) -> str:
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="WEBP", quality=quality, method=4)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _question(row: Mapping[str, Any]) -> str:
    lines = [str(row.get("question") or "")]
    for name in OPTIONS:
        value = row.get(name)
        if isinstance(value, list):
            lines += [f"{chr(ord('A') + at)}. {option}" for at, option in enumerate(value)]
        elif isinstance(value, str) and value not in ("", "nan"):
            lines.append(f"{name}. {value}")
    return "\n".join(lines)
