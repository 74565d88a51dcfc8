"""A name stands for one model in a results folder: tables, which go by names, would mix two, or lose one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsemm.configs import InputError
from sparsemm.evaluation.cells import Cell
from sparsemm.evaluation.results import look_at_cells


def check_one_model(folder: Path, cells: Sequence[Cell]) -> None:
    """Look that no other model has measured cells of a folder under a name of these, nor one of these itself.

    Cells of an older sparsemm do not say which model they are of, and are left out.

    Raises
    ------
    InputError
        One line that names the folder, the model, and what helps.
    """
    named: dict[str, str] = {}
    for name, model_id in [*((cell.model, cell.model_id) for cell in cells), *_measured(folder)]:
        wanted = name in {cell.model for cell in cells}
        if wanted and named.setdefault(name, model_id) != model_id:
            raise InputError(
                f"{folder} would hold two models of the name {name} (other weights, number format or image "
                "settings): give this one its own name (model.name=NAME) or another folder (output=FOLDER)"
            )


def _measured(folder: Path) -> list[tuple[str, str]]:
    """Name and identity of the model of each finished cell that says so; what cannot be read is none here."""
    cells, _ = look_at_cells(folder)
    named = [cell for cell in cells if isinstance(cell.get("model_id"), str)]
    return [(str(cell["row"]["model"]), cell["model_id"]) for cell in named]
