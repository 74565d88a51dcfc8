"""A results folder: one atomic file for each finished cell, and the tables that are derived from them.

``cells/<id>.json`` is the truth; ``cells.csv`` and ``samples.parquet`` can be made again at any time, so
that jobs that finish cells in parallel never overwrite each other's results.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsemm.configs import PACKAGE
from sparsemm.evaluation.tables import CELL_COLUMNS, SAMPLE_COLUMNS, SCHEMA_VERSION
from sparsemm.evaluation.uncertainty import intervals

if TYPE_CHECKING:
    import pandas as pd

LIBRARIES = ("sparsemm", "torch", "transformers", "lmms_eval", "datasets", "accelerate", "numpy")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in place: readers never see half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    os.close(handle)
    beside = Path(name)
    try:
        write(beside)
        beside.chmod(0o644)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON atomically, two levels of keys a line each: lists of samples stay on one line."""
    lines = []
    for key, entry in value.items():
        inner = (
            [f" {_json(name)}: {_json(item)}" for name, item in entry.items()]
            if isinstance(entry, dict)
            else []
        )
        lines.append(f"{_json(key)}: " + ("{\n" + ",\n".join(inner) + "\n}" if inner else _json(entry)))
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def cell_file(folder: Path, cell_id: str) -> Path:
    """Where a cell's result lies."""
    return folder / "cells" / f"{cell_id}.json"


def write_cell(
    folder: Path, cell_id: str, group: str, row: Mapping[str, Any], samples: Mapping[str, list[Any]]
) -> None:
    """Record a finished cell: its row of ``cells.csv`` and its samples, column by column."""
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"id": cell_id, "group": group, "finished": finished, "row": dict(row), "samples": dict(samples)}
    write_json(cell_file(folder, cell_id), record)


def read_cells(folder: Path) -> list[dict[str, Any]]:
    """All finished cells of a folder, in no particular order."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in (folder / "cells").glob("*.json")]


def current_cells(cells: list[dict[str, Any]], groups: Mapping[tuple[str, str], str]) -> list[dict[str, Any]]:
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


def derive_tables(folder: Path, groups: Mapping[tuple[str, str], str] | None = None) -> pd.DataFrame:
    """Write ``cells.csv`` and ``samples.parquet`` from the finished cells, and return the former.

    Rows are ordered by what was run, so that the files do not depend on the order in which cells finished.
    """
    import pandas as pd

    cells = current_cells(read_cells(folder), groups or {})
    cells.sort(key=_order)
    reference = {cell["group"]: cell for cell in cells if cell["row"]["method"] == "fullkv"}
    rows = []
    for cell in cells:
        full = reference.get(cell["group"])
        rows.append({**cell["row"], **_against_full(cell, full), **intervals(cell, full)})
    table = pd.DataFrame(
        [{name: row.get(name) for name in CELL_COLUMNS} for row in rows], columns=list(CELL_COLUMNS)
    )
    names = ("model", "task", "method", "budget")
    samples = [
        pd.DataFrame({"cell": cell["id"], **{name: cell["row"][name] for name in names}, **cell["samples"]})
        for cell in cells
    ]
    joined = pd.concat([frame.astype({"budget": float}) for frame in samples]) if samples else pd.DataFrame()
    joined = joined.reindex(columns=list(SAMPLE_COLUMNS))
    write_atomically(folder / "cells.csv", lambda beside: table.to_csv(beside, index=False))
    write_atomically(folder / "samples.parquet", lambda beside: joined.to_parquet(beside, index=False))
    return table


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _order(cell: Mapping[str, Any]) -> tuple[Any, ...]:
    row = cell["row"]
    return (
        row["model"],
        row["task"],
        row["method"] != "fullkv",
        row["method"],
        row["budget"] or 0.0,
        cell["id"],
    )


def _against_full(cell: Mapping[str, Any], full: Mapping[str, Any] | None) -> dict[str, Any]:
    """Columns that compare a cell with FullKV's on the same documents, if that is there."""
    if full is None:
        return {}
    pairs = zip(cell["samples"]["response"], full["samples"]["response"], strict=True)
    equal = [ours == theirs for ours, theirs in pairs]
    return {
        "diff_full": round(cell["row"]["score"] - full["row"]["score"], 12),
        "agreement_full": sum(equal) / len(equal),
    }


def write_run(folder: Path, config: Mapping[str, Any]) -> None:
    """Record how the folder's cells are made: resolved configuration, versions of libraries, git commit."""
    run = {
        "config": dict(config),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "git_commit": git_commit(),
        "schema_version": SCHEMA_VERSION,
    }
    write_json(folder / "run.json", run)


def git_commit() -> str | None:
    """Commit of the clone that the package runs from, with ``+`` if files differ; None without a clone."""
    clone = PACKAGE.parent
    if not (clone / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
        )
        state = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "sparsemm", "eval_configs"],
            cwd=clone, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if state.stdout.strip() else "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
