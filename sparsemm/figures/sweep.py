"""All figures of a results folder, written beside its tables."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import pandas as pd

from sparsemm.configs import shipped
from sparsemm.evaluation.tables import IMAGE_QUESTION, QUESTION_AFTER, load_results
from sparsemm.figures.ablation import mask_ablation
from sparsemm.figures.accuracy import accuracy_vs_budget
from sparsemm.figures.concentration import head_concentration
from sparsemm.figures.decode import decode_figures
from sparsemm.figures.differences import differences_vs_budget
from sparsemm.figures.heads import head_scores
from sparsemm.figures.style import RC, figure_of
from sparsemm.heads import HeadScores
from sparsemm.heads.concentration import SIZES, rank_agreement, top_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf")

SPLIT = {"sparsemm", "sparsemm_layer_mean", "sparsemm_flat"}
"""Methods between which `differences_vs_budget` splits SparseMM's gain."""


def save(folder: str | Path) -> list[Path]:
    """Draw every figure that a results folder has the data for, as PNG and PDF in ``<folder>/figures/``.

    From its cells ``accuracy_vs_budget``, ``accuracy_controls`` (SparseMM and its controls) and
    ``accuracy_variants`` (released and original forms beside ours), each once more with ``_question_after``
    for prompts compressed before their question; ``mask_ablation``; from its comparisons
    ``differences_vs_budget``; ``head_scores_<file>`` and ``head_concentration_<file>`` for every file of
    head scores that the cells used, if that very file (by its hash) is where the run had it or comes with
    sparsemm; a warning if not. From a table of ``sparsemm efficiency decode``, ``decode_<device>_<budget>``.

    Parameters
    ----------
    folder : path
        ``results/<experiment>``, or the output of ``sparsemm efficiency decode``.

    Returns
    -------
    list of Path
        The written files.

    Raises
    ------
    FileNotFoundError
        If the folder has neither ``cells.csv`` nor ``decode.csv``.
    ValueError
        If its table cannot be drawn.
    """
    folder = Path(folder)
    figures: dict[str, Figure] = {}
    if (folder / "decode.csv").is_file():
        figures |= decode_figures(pd.read_csv(folder / "decode.csv"))
    if (folder / "cells.csv").is_file() or not figures:
        figures |= _of_cells(folder)
    return [path for name, figure in figures.items() for path in _write(figure, folder / "figures", name)]


def _of_cells(folder: Path) -> dict[str, Figure]:
    """The figures of a sweep's tables."""
    cells = load_results(folder)
    figures: dict[str, Figure] = {}
    whole = cells[cells["ablation"].isna()]
    full = whole["method"] == "fullkv"
    for ending, rows in (
        ("", whole[whole["prompt"] == IMAGE_QUESTION]),
        ("_question_after", whole[full | (whole["prompt"] == QUESTION_AFTER)]),
    ):
        if rows["budget"].notna().any() or (not ending and len(rows) == len(cells)):
            named = _accuracy_figures(rows).items()
            figures |= {f"{name}{ending}": accuracy_vs_budget(shown) for name, shown in named}
    masked = cells[cells["ablation"].notna()]
    if (masked["method"] == "fullkv").any():
        figures["mask_ablation"] = mask_ablation(cells[cells["method"] == "fullkv"])
    if others := sorted(set(masked["method"]) - {"fullkv"}):
        warnings.warn(f"ablations are drawn of FullKV alone, not of {', '.join(others)}", stacklevel=2)
    comparisons = folder / "comparisons.csv"
    if comparisons.is_file() and set(cells["method"]) >= SPLIT:
        table = pd.read_csv(comparisons)
        plain = table["ablation"].isna() & (table["prompt"] == IMAGE_QUESTION)
        if (plain & (table["compared"] == "method")).any():
            figures["differences_vs_budget"] = differences_vs_budget(table[plain])
    for label in sorted(cells["head_scores"].dropna().unique()):
        file = _find_head_scores(label, folder)
        if file is None:
            warnings.warn(
                f"the head scores {label} are nowhere to be found: their figure is left out", stacklevel=2
            )
            continue
        scores, title = HeadScores.load(file), _title(file, cells)
        figures[f"head_scores_{file.stem}"] = head_scores(scores.scores, title=title)
        if len(scores.hits) >= 2 * min(SIZES):
            figures[f"head_concentration_{file.stem}"] = head_concentration(
                top_share(scores), rank_agreement(scores), title=title
            )
    return figures


def _accuracy_figures(cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each figure of accuracy: more than about eight lines cannot be told apart."""
    kind = cells["method"].map(figure_of)
    full = cells["method"] == "fullkv"
    figures = {"accuracy_vs_budget": cells[kind == "main"] if (kind == "main").any() else cells}
    if (kind == "controls").any():
        figures["accuracy_controls"] = cells[full | (kind == "controls") | (cells["method"] == "sparsemm")]
    variants = set(cells.loc[kind == "variants", "method"])
    if variants:
        bases = {name.removesuffix("_released").removesuffix("_original") for name in variants}
        figures["accuracy_variants"] = cells[full | cells["method"].isin(variants | bases)]
    return figures


def _find_head_scores(label: str, folder: Path) -> Path | None:
    """The file that a cell's label ``<name>@<start of its SHA-256>`` means; None if no such file is there."""
    name, _, digest = label.rpartition("@")
    for file in _candidates(name, folder):
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest().startswith(digest):
            return file
    return None


def _candidates(name: str, folder: Path) -> Iterator[Path]:
    """Where a file of head scores may lie: where the run's configuration says, then with the shipped ones."""
    run = folder / "run.json"
    for path in _named(json.loads(run.read_text(encoding="utf-8"))) if run.is_file() else ():
        yield Path(path)
    yield shipped("results/head_scores") / name


def _named(config: Any) -> Iterator[str]:
    """Every string under a key ``head_scores`` of a nested configuration."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "head_scores" and isinstance(value, str):
                yield value
            else:
                yield from _named(value)
    elif isinstance(config, list):
        for value in config:
            yield from _named(value)


def _title(file: Path, cells: pd.DataFrame) -> str:
    """The model's name if the table has one model, else the file's."""
    models = cells["model"].unique()
    return f"head scores of {models[0] if len(models) == 1 else file.stem}"


def _write(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write one figure in all formats, each atomically, without dates: the same data give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for format in FORMATS:
        target = folder / f"{name}.{format}"
        beside = folder / f".{name}.{os.getpid()}.{format}"
        try:
            with mpl.rc_context(RC):
                figure.savefig(
                    beside, format=format, metadata={"CreationDate": None} if format == "pdf" else None
                )
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
        written.append(target)
    return written
