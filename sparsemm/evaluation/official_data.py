"""Data of official benchmarks: local parquet files in the official schema, and what the hub says."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsemm.configs import InputError, check_ordinary

SHARD = re.compile(r"(?P<split>\w+)-\d{5}-of-\d{5}\b.*\.parquet")
"""How the hub names the parts of a split."""


def locate(task: str, given: Any, split: str) -> list[Path]:
    """The files that ``data_files`` names: a file, a pattern, or a folder's of the task's split.

    Raises
    ------
    InputError
        If there is none, or a folder holds other splits alone.
    """
    option = f"tasks.{task}.data_files"
    if not isinstance(given, str):
        raise InputError(f"{option} must be a parquet file, a folder or a pattern, got {given!r}")
    try:
        path = Path(given).expanduser()
    except RuntimeError as error:  # of a user who is not known here
        raise InputError(f"{option}: {given}: {error}") from None
    if path.is_dir():
        found = sorted(path.glob("*.parquet"))
        shards = {file: match["split"] for file in found if (match := SHARD.fullmatch(file.name))}
        if shards:  # as downloaded from the hub, where all splits lie in one folder
            found = [file for file, of in shards.items() if of == split]
            if not found:
                splits = ", ".join(sorted(set(shards.values())))
                raise InputError(f"{option}: {path} holds the split {splits}, but {task} needs {split}")
    else:  # where nothing matches, the check of the file says that it is not there
        found = [path] if path.exists() else sorted(path.parent.glob(path.name)) or [path]
    if not found:
        raise InputError(f"{option}: there is no parquet file in {path}")
    return [file.absolute() for file in found]


def check(task: str, file: Path, columns: Sequence[str]) -> None:
    """Look whether a file can be read and has what the task's code reads; its rows are not read.

    Raises
    ------
    InputError
        One line that names the file and what it lacks.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        check_ordinary(file)
        with file.open("rb") as handle:
            parquet = pq.ParquetFile(handle)
            rows, names = parquet.metadata.num_rows, parquet.schema_arrow.names
        if lacking := sorted(set(columns) - set(names)):
            raise ValueError(f"it lacks the columns {', '.join(lacking)}")
        if not rows:
            raise ValueError("it holds no documents")
    except (ValueError, OSError, pa.ArrowException) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"tasks.{task}.data_files: {file} cannot be used: {reason}") from error


def features(file: Path) -> Any:
    """The columns' types; of what the file itself says of them nothing is heeded, and ``image`` is a picture.

    A column that a file calls pictures, sounds or videos would be read from wherever its values point.
    """
    import datasets
    import pyarrow.parquet as pq

    found = datasets.Features.from_arrow_schema(pq.read_schema(file).remove_metadata())
    return datasets.Features({**found, "image": datasets.Image()})


def digest(files: Sequence[Path]) -> str:
    """Sixteen hex digits of the files' content, whatever their names and place; large files are sampled."""
    from sparsemm.models.checkpoint import sample  # here, because its room needs torch

    found = hashlib.sha256()
    for file in files:
        sample(found, file)
    return found.hexdigest()[:16]


def is_cached(path: str, name: str | None) -> bool:
    """Whether `datasets` has prepared a dataset on this machine; nothing is asked of the hub."""
    from datasets.naming import camelcase_to_snakecase
    from lmms_eval.api.task import _resolve_hf_datasets_cache_dir
    from loguru import logger

    logger.disable("lmms_eval")  # it says on what kind of disk the folder is
    folder = Path(_resolve_hf_datasets_cache_dir())
    logger.enable("lmms_eval")
    owner, dataset = path.split("/")
    prepared = folder / f"{owner}___{camelcase_to_snakecase(dataset)}"
    return any(prepared.glob(f"{name or '*'}/*/*/dataset_info.json"))


def refusal(path: str, revision: str | None) -> str | None:
    """Why the hub does not give a dataset, in one line; None if it does."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled

    try:
        HfApi().auth_check(path, repo_type="dataset")
        if revision is not None:
            HfApi().dataset_info(path, revision=revision, timeout=10)
    except OfflineModeIsEnabled:
        return "the hub cannot be reached: HF_HUB_OFFLINE is set"
    except GatedRepoError:
        return f"{path} is gated: ask for access on its page and log in (`hf auth login`)"
    except HfHubHTTPError as error:
        return f"the hub gives no {path}: {str(error).strip().splitlines()[0]}"
    except Exception as error:  # whatever the transport raises
        return f"the hub cannot be reached: {str(error).strip().splitlines()[0]}"
    return None


def logged_in() -> bool:
    """Whether there is a token for the hub."""
    from huggingface_hub import get_token

    return get_token() is not None
