"""A results folder: one atomic file for each finished cell, and the tables that are derived from them.

``cells/<id>.json`` is the truth; ``cells.csv`` and ``samples.parquet`` can be made again at any time, so
that jobs that finish cells in parallel never overwrite each other's results.
"""

from __future__ import annotations

import itertools
import json
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsemm.configs import InputError, recorded
from sparsemm.evaluation.agreement import agreement
from sparsemm.evaluation.allocations import ALLOCATION_COLUMNS, allocation_rows
from sparsemm.evaluation.cell_check import read_cell
from sparsemm.evaluation.comparisons import COMPARISON_COLUMNS, comparisons
from sparsemm.evaluation.storefile import put_aside
from sparsemm.evaluation.tables import (
    CELL_COLUMNS,
    LABELS,
    SAMPLE_COLUMNS,
    SCHEMA_VERSION,
    Column,
)
from sparsemm.evaluation.uncertainty import intervals
from sparsemm.recording import git_commit, versions, write_atomically, write_json

if TYPE_CHECKING:
    import pandas as pd

PANDAS_TYPES = {"text": "object", "integer": "Int64", "number": "float64", "boolean": "boolean"}
ARROW_TYPES = {"text": "string", "integer": "int64", "number": "float64", "boolean": "bool_"}

REMEDY = "the sweep that asks for its cell sets it aside, and makes the cell again from its responses"

LIBRARIES = ("sparsemm", "torch", "transformers", "lmms_eval", "datasets", "accelerate", "numpy", "scipy")


def cell_file(folder: Path, cell_id: str) -> Path:
    """Where a cell's result lies."""
    return folder / "cells" / f"{cell_id}.json"


def write_cell(
    folder: Path,
    cell_id: str,
    group: str,
    row: Mapping[str, Any],
    samples: Mapping[str, list[Any]],
    allocation: Mapping[str, Any] | None = None,
    model_id: str | None = None,
) -> None:
    """Record a finished cell: its row of ``cells.csv``, its samples column by column, and its allocation.

    `model_id` says which model it is that the row names; see `sparsemm.evaluation.one_model`.
    """
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"id": cell_id, "group": group, "finished": finished, "row": dict(row), "samples": dict(samples)}
    if model_id is not None:
        record["model_id"] = model_id
    if allocation is not None:
        record["allocation"] = dict(allocation)
    write_json(cell_file(folder, cell_id), record)


def is_finished(folder: Path, cell_id: str) -> bool:
    """Whether a cell's file is there and sound, and every document of it was answered."""
    path = cell_file(folder, cell_id)
    if not path.is_file():
        return False
    try:
        return not any(read_cell(path)["samples"].get("error", ()))
    except InputError:
        raise
    except ValueError:  # `set_broken_aside` says so
        return False


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds tables alone, no cells and no responses: new tables would lack old cells.

    Raises
    ------
    InputError
        One line that names the folder.
    """
    made_from = any((folder / "cells").glob("*.json")) or (folder / "responses").is_dir()
    if (folder / "samples.parquet").is_file() and not made_from:
        raise InputError(
            f"{folder} holds tables without the cells that they were made from, as results are committed; "
            "name another folder (output=results/mine)"
        )


def look_at_cells(folder: Path) -> tuple[list[dict[str, Any]], dict[Path, str]]:
    """All finished cells of a folder, ordered by id, and of each file that is no cell's the reason.

    Raises
    ------
    InputError
        A newer sparsemm wrote a file; one line that names it.
    """
    cells: list[dict[str, Any]] = []
    broken: dict[Path, str] = {}
    for path in sorted((folder / "cells").glob("*.json")):
        try:
            cells.append(read_cell(path))
        except InputError:
            raise
        except ValueError as error:
            broken[path] = str(error)
    return cells, broken


def said_of(broken: Mapping[Path, str]) -> list[str]:
    """A line for each file that `look_at_cells` found to be no cell's, for those who only look."""
    return [f"{path} is no cell's file ({reason}); {REMEDY}" for path, reason in broken.items()]


def set_broken_aside(folder: Path) -> list[str]:
    """Rename what is no cell's file, so that its cell is made again; return a line for each, for the user."""
    notices = []
    for path, reason in look_at_cells(folder)[1].items():
        try:
            aside = put_aside(path)
        except FileNotFoundError:  # another process of the same sweep was first
            continue
        notices.append(
            f"{path} was no cell's file ({reason}): it is now {aside.name}, and a cell that was asked for is "
            "made again from its stored responses"
        )
    return notices


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """All finished cells of a folder, ordered by id.

    Raises
    ------
    ValueError
        If a file is no cell's; one line that names it.
    """
    cells, broken = look_at_cells(folder)
    for line in said_of(broken):
        raise ValueError(line)
    return cells


def current_cells(
    cells: Sequence[dict[str, Any]], groups: Mapping[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """The cells that may stand in one table.

    A folder can hold cells of several versions of a model or task (a checkpoint trained again, another
    ``limit``). Of each (model, task) one group of comparable cells is shown: the one in `groups`, else the
    last one finished.
    """
    latest: dict[tuple[str, str], str] = {}
    for cell in sorted(cells, key=lambda cell: (cell["finished"], cell["id"])):
        latest[cell["row"]["model"], cell["row"]["task"]] = cell["group"]
    latest.update(groups)
    return [cell for cell in cells if latest[cell["row"]["model"], cell["row"]["task"]] == cell["group"]]


def derive_tables(
    folder: Path,
    groups: Mapping[tuple[str, str], str] | None = None,
    finished: Sequence[dict[str, Any]] | None = None,
) -> pd.DataFrame:
    """Write ``cells.csv``, ``comparisons.csv``, ``samples.parquet`` and ``allocations.parquet``.

    The last is there only if a cell has an allocation: those that older versions finished have none.
    Rows are ordered by what was run, so that the files do not depend on the order in which cells finished.

    Parameters
    ----------
    folder : Path
        Where the tables go.
    groups : mapping, optional
        As in `current_cells`.
    finished : sequence of cells, optional
        Default: those of the folder.

    Returns
    -------
    DataFrame
        ``cells.csv``.

    Raises
    ------
    ValueError
        If a cell's file is corrupt, or does not go with FullKV's; one line that names it.
    """
    held = read_cells(folder) if finished is None else finished
    cells = sorted(current_cells(held, groups or {}), key=_order)
    rows: list[dict[str, Any]] = []
    compared_rows: list[dict[str, Any]] = []
    samples: dict[str, list[Any]] = {name: [] for name in SAMPLE_COLUMNS}
    for _, members in itertools.groupby(cells, key=lambda cell: (cell["row"]["model"], cell["row"]["task"])):
        compared = list(members)
        full = next((cell for cell in compared if is_plain_full(cell)), None)
        for cell in compared:
            _check_documents(cell, full, folder)
        compared_rows += comparisons(compared, full)
        for cell, ends in zip(compared, intervals(compared, full), strict=True):
            agreed = agreement(cell, full)
            rows.append({**cell["row"], **_counted(cell, full, agreed), **ends})
            for name, column in _sample_columns(cell, agreed).items():
                samples[name] += column
    table = _frame(rows, CELL_COLUMNS)
    differences = _frame(compared_rows, COMPARISON_COLUMNS)
    allocations = allocation_rows(cells)
    write_atomically(folder / "cells.csv", lambda beside: table.to_csv(beside, index=False))
    write_atomically(folder / "comparisons.csv", lambda beside: differences.to_csv(beside, index=False))
    _write_parquet(folder / "samples.parquet", samples, SAMPLE_COLUMNS)
    if allocations["cell"]:
        _write_parquet(folder / "allocations.parquet", allocations, ALLOCATION_COLUMNS)
    else:
        (folder / "allocations.parquet").unlink(missing_ok=True)
    return table


def _write_parquet(path: Path, values: Mapping[str, list[Any]], columns: Mapping[str, Column]) -> None:
    """Write a table of these columns, with their types, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            name: pa.array(values[name], type=getattr(pa, ARROW_TYPES[column.type])())
            for name, column in columns.items()
        }
    )
    write_atomically(path, lambda beside: pq.write_table(table, beside, compression="zstd"))


def derive_union(folder: Path, groups: Mapping[tuple[str, str], str] | None = None) -> pd.DataFrame:
    """`derive_tables`, so that of several processes that finish cells at once the last one has all of them.

    No lock is needed (network file systems may have none): cells that came while the tables were made are
    seen after these were put in place, and they are made again. Whoever writes last has looked after it.
    """
    while True:
        seen = _stamps(folder)
        table = derive_tables(folder, groups)
        if _stamps(folder) == seen:
            return table


def _stamps(folder: Path) -> set[tuple[str, int, int]]:
    """Which cells there are, and when each was written."""
    found = ((path.name, path.lstat()) for path in (folder / "cells").glob("*.json"))
    return {(name, stat.st_mtime_ns, stat.st_size) for name, stat in found}


def _frame(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Column]) -> pd.DataFrame:
    """Rows as a data frame with just these columns, and their types."""
    import pandas as pd

    return pd.DataFrame(
        {
            name: pd.Series([row.get(name) for row in rows], dtype=PANDAS_TYPES[column.type])
            for name, column in columns.items()
        }
    )


def _order(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    row = cell["row"]
    return (
        row["model"],
        row["task"],
        row.get("ablation") or "",
        row.get("fraction") or 0.0,
        row["prompt"],
        row["method"] != "fullkv",
        row["method"],
        row["budget"] or 0.0,
        cell["id"],
    )


def is_plain_full(cell: Mapping[str, Any]) -> bool:
    """Whether a cell is what all others are compared with: FullKV, no head switched off."""
    return cell["row"]["method"] == "fullkv" and not cell["row"].get("ablation")


def _check_documents(cell: Mapping[str, Any], full: Mapping[str, Any] | None, folder: Path) -> None:
    if full is not None and cell["samples"]["doc_id"] != full["samples"]["doc_id"]:
        one, other = (cell_file(folder, held["id"]) for held in (cell, full))
        raise ValueError(f"{one} and FullKV's {other} hold other documents; delete the one that is wrong")


def _counted(
    cell: Mapping[str, Any], full: Mapping[str, Any] | None, agreed: Mapping[str, list[Any]]
) -> dict[str, Any]:
    """The columns of a cell's row that come from its samples and FullKV's, where they hold what is needed."""
    columns: dict[str, Any] = {}
    if "error" in cell["samples"]:
        columns["n_failed"] = sum(error is not None for error in cell["samples"]["error"])
    if full is not None:
        columns["diff_full"] = round(cell["row"]["score"] - full["row"]["score"], 12)
    for name, values in agreed.items():
        columns[name] = None if None in values else math.fsum(values) / len(values)
    return columns


def _sample_columns(cell: Mapping[str, Any], agreed: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """A cell's part of ``samples.parquet``; columns that its file lacks are empty."""
    n = len(cell["samples"]["doc_id"])
    columns: dict[str, list[Any]] = {"cell": [cell["id"]] * n, **agreed}
    for name in LABELS:
        columns[name] = [cell["row"].get(name)] * n
    held = {**cell["samples"], **columns}
    return {name: held.get(name, [None] * n) for name in SAMPLE_COLUMNS}


def write_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Record how the folder's cells are made: resolved configuration, versions of libraries, git commit."""
    run = {
        "config": recorded(config),
        "versions": {"python": platform.python_version(), **versions(LIBRARIES)},
        "git_commit": git_commit(),
        "schema_version": SCHEMA_VERSION,
    }
    write_json(folder / "run.json", run)


def read_run(folder: Path) -> dict[str, Any]:
    """What `write_run` wrote.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It is not that; one line that names it.
    """
    path = folder / "run.json"
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} is no file")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error})") from None
    config = run.get("config", {}) if isinstance(run, dict) else None
    if not isinstance(config, dict) or not isinstance(run.get("versions") or {}, dict):
        raise ValueError(f"{path} is not what a sweep writes")
    return run


def has_run(folder: Path) -> bool:
    """Whether there is a ``run.json`` that can be read."""
    try:
        read_run(folder)
    except (FileNotFoundError, ValueError):
        return False
    return True
