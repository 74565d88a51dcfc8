"""Reading a results folder for the report: the tables of a finished sweep, or of a running one's cells."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sparsemm.configs import InputError
from sparsemm.evaluation.results import derive_tables, look_at_cells, said_of
from sparsemm.evaluation.tables import AGAIN, CELL_COLUMNS, LABELS, load_results

TABLES = ("cells.csv", "comparisons.csv", "samples.parquet", "allocations.parquet")
"""Files that the report reads beside ``run.json``; only the first must be there."""


@dataclass(frozen=True)
class Results:
    """What a results folder holds.

    Attributes
    ----------
    folder : Path
    cells : pandas.DataFrame
        Rows of ``cells.csv``; without rows if no cell of a running sweep is finished yet.
    ids : list of str
        Id of each row's cell; empty if ``samples.parquet`` is missing or of other cells.
    comparisons, samples, allocations : pandas.DataFrame or None
        None where the file is missing.
    run : dict
        ``run.json``; empty without one.
    files : dict
        Name, bytes and SHA-256 of every file that was read.
    derived : bool
        Whether the tables were made from ``cells/`` for this report, because the sweep has not written them.
    notices : list of str
        What is missing or does not fit, for the reader.
    """

    folder: Path
    cells: pd.DataFrame
    ids: list[str]
    comparisons: pd.DataFrame | None
    samples: pd.DataFrame | None
    allocations: pd.DataFrame | None
    run: dict[str, Any]
    files: dict[str, tuple[int, str]]
    derived: bool
    notices: list[str]


def read_results(folder: Path, *, may_be_empty: bool = False) -> Results:
    """Read a results folder.

    Cells that finished after the tables were written are counted: the tables are then derived anew, in memory
    of this process, and the folder stays as it is.

    Parameters
    ----------
    folder : Path
        ``results/<experiment>``.
    may_be_empty : bool, default False
        Accept the folder of a sweep that has not finished any cell.

    Raises
    ------
    InputError
        No such folder, or a table that cannot be read.
    FileNotFoundError
        It has neither ``cells.csv`` nor finished cells.
    ValueError
        A table or a cell's file is corrupt; one line that names it.
    """
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}; give a results folder (results/<experiment>)")
    finished, broken = look_at_cells(folder)
    notices = said_of(broken)
    if finished and _are_newer(folder):
        with tempfile.TemporaryDirectory(prefix="sparsemm-report-") as made:
            try:
                derive_tables(Path(made), finished=finished)
            except ValueError as error:  # it names a file where the tables are made
                raise ValueError(str(error).replace(made, str(folder))) from error
            return _read(folder, Path(made), notices, derived=True)
    if not (folder / "cells.csv").is_file() and may_be_empty:
        nothing = pd.DataFrame(columns=list(CELL_COLUMNS))
        return Results(folder, nothing, [], None, None, None, _read_run(folder), {}, True, notices)
    return _read(folder, folder, notices, derived=False)


def _are_newer(folder: Path) -> bool:
    """Whether a cell finished after the table was written."""
    table = folder / "cells.csv"
    written = table.stat().st_mtime_ns if table.is_file() else 0
    return any(cell.lstat().st_mtime_ns > written for cell in (folder / "cells").glob("*.json"))


def _read(folder: Path, tables: Path, notices: list[str], *, derived: bool) -> Results:
    """Read the tables in `tables`, made from the cells of `folder`."""
    cells = load_results(tables)
    samples = _parquet(tables / "samples.parquet")
    ids = [] if samples is None else [str(cell) for cell in samples["cell"].unique()]
    if samples is not None and not _belong(samples, cells, ids):
        notices.append("samples.parquet is of other cells than cells.csv: the samples are left out")
        samples, ids = None, []
    elif samples is None:
        notices.append("there is no samples.parquet: the samples are left out")
    files = {}
    for name in TABLES:
        if (path := tables / name).is_file():
            files[name] = file_facts(path)
    if (path := folder / "run.json").is_file():
        files["run.json"] = file_facts(path)
    return Results(
        folder=folder,
        cells=cells,
        ids=ids,
        comparisons=_csv(tables / "comparisons.csv"),
        samples=samples,
        allocations=_parquet(tables / "allocations.parquet"),
        run=_read_run(folder),
        files=files,
        derived=derived,
        notices=notices,
    )


def _belong(samples: pd.DataFrame, cells: pd.DataFrame, ids: Sequence[str]) -> bool:
    """Whether the samples are those of the cells: both tables have the same order, by `derive_tables`."""
    if len(ids) != len(cells):
        return False
    firsts = samples.drop_duplicates("cell")
    return all(_texts(firsts[name]) == _texts(cells[name]) for name in LABELS)


def _texts(column: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else str(value) for value in column]


def file_facts(path: Path) -> tuple[int, str]:
    """A file's length in bytes and its SHA-256."""
    content = path.read_bytes()
    return len(content), hashlib.sha256(content).hexdigest()


def _read_run(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    if not path.is_file():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}); {AGAIN}") from None
    if not isinstance(run, dict):
        raise ValueError(f"{path} is no JSON object; {AGAIN}")
    return run


def _csv(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        return pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no table ({' '.join(str(error).split())}); {AGAIN}") from None


def _parquet(path: Path) -> pd.DataFrame | None:
    import pyarrow as pa

    if not path.is_file():
        return None
    try:
        return pd.read_parquet(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no parquet file ({' '.join(str(error).split())}); {AGAIN}") from None
