"""Whether a cell's file is what a sweep wrote: nothing of it reaches a table unseen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sparsemm.configs import InputError
from sparsemm.evaluation.allocations import check_allocation
from sparsemm.evaluation.tables import CELL_COLUMNS, IMAGE_QUESTION, SAMPLE_COLUMNS, SCHEMA_VERSION

CELL_KEYS = ("id", "group", "finished", "row", "samples")
ROW_KEYS = ("model", "task", "method", "budget", "score")
SAMPLE_KEYS = ("doc_id", "response", "score")
"""What every cell's file holds; without it no table can be derived."""


def read_cell(path: Path) -> dict[str, Any]:
    """Read a cell's file.

    Raises
    ------
    InputError
        A newer sparsemm wrote it; one line that names it.
    ValueError
        It is no cell's file; the reason alone.
    """
    if not path.is_file():
        raise ValueError("it is no file")
    try:
        cell = json.loads(path.read_text(encoding="utf-8"))
        version = cell["row"].get("schema_version") or 0
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise InputError(
                f"{path} was written by a newer sparsemm (schema {version}, this one knows "
                f"{SCHEMA_VERSION}): update sparsemm, or name another output folder"
            )
        _check(cell)
    except InputError:
        raise
    except KeyError as error:
        raise ValueError(f"it lacks {error.args[0]}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    cell["row"].setdefault("prompt", IMAGE_QUESTION)  # schema 2 knew no other
    return cell


def _check(cell: dict[str, Any]) -> None:
    """Raise ValueError, TypeError or AttributeError unless this is a cell."""
    lacking = [key for key in CELL_KEYS if key not in cell]
    lacking = lacking or [f"row.{key}" for key in ROW_KEYS if key not in cell["row"]]
    lacking = lacking or [f"samples.{key}" for key in SAMPLE_KEYS if key not in cell["samples"]]
    if lacking:
        raise ValueError(f"it lacks {', '.join(lacking)}")
    row, samples = cell["row"], cell["samples"]
    if len({len(column) for column in samples.values()}) != 1:
        raise ValueError("its samples' columns differ in length")
    wrong = [f"row.{name}" for name, column in CELL_COLUMNS.items() if not column.holds(row.get(name))]
    wrong += [
        f"samples.{name}"
        for name, column in SAMPLE_COLUMNS.items()
        if not all(map(column.holds, samples.get(name, ())))
    ]
    wrong += [f"row.{name}" for name in ("model", "task", "method", "score") if row[name] is None]
    if not all(isinstance(tokens, list) for tokens in samples.get("tokens", ())):
        wrong.append("samples.tokens")
    if wrong:
        raise ValueError(f"a value of a wrong type in {', '.join(wrong)}")
    check_allocation(cell.get("allocation"))
