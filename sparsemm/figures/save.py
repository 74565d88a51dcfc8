"""All figures of a results folder, written beside its tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import pandas as pd

from sparsemm.configs import InputError
from sparsemm.figures.decode import decode_figures
from sparsemm.figures.style import RC
from sparsemm.figures.sweep import sweep_figures
from sparsemm.recording import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf")


def save(
    folder: str | Path,
    *,
    width: float | None = None,
    efficiency: str | Path | None = None,
    paper: bool = False,
    heads: Sequence[str | Path] = (),
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Draw every figure that a results folder has the data for, as PNG and PDF in ``<folder>/figures/``.

    Of a sweep those of `sparsemm.figures.sweep.sweep_figures`; of a table of ``sparsemm efficiency decode``,
    ``decode_<device>_<budget>``. What cannot be drawn is left out, with the reason in one line each.

    Parameters
    ----------
    folder : path
        ``results/<experiment>``, or the output of ``sparsemm efficiency decode``.
    width : float, optional
        Width of all figures in inches (`sparsemm.figures.style.WIDTHS`); default: each figure's own.
    efficiency : path, optional
        A folder with ``decode.csv``, or that file: decode times of the same models, for
        ``score_vs_latency``.
    paper : bool, default=False
        Mark the scores that SparseMM's authors published in ``accuracy_vs_budget``.
    heads : sequence of paths, optional
        Files of head scores that the cells used and that neither lie in the folder nor come with sparsemm.
    say : callable, optional
        Called with a line for each figure that is left out; default: a warning.

    Returns
    -------
    list of Path
        The written files.

    Raises
    ------
    FileNotFoundError
        If the folder has neither ``cells.csv`` nor ``decode.csv``.
    ValueError
        If its table cannot be read, or nothing of it can be drawn.
    """
    folder = Path(folder)
    decode = None if efficiency is None else read_decode(Path(efficiency))
    reasons: list[str] = []

    def left_out(line: str) -> None:
        reasons.append(line)
        (say or _warn)(line)

    figures: dict[str, Figure] = {}
    sized = {} if width is None else {"width": width}
    timed = (folder / "decode.csv").is_file()
    if timed:
        figures |= decode_figures(read_decode(folder), **sized)
        if not figures:
            left_out("decode_vs_context is left out: no model was measured at two prompt lengths")
    if (folder / "cells.csv").is_file() or not timed:
        figures |= sweep_figures(
            folder, decode=decode, paper=paper, heads=[*map(Path, heads)], say=left_out, **sized
        )
    if not figures:
        raise ValueError(f"nothing of {folder} can be drawn: {reasons[0]}")
    return [path for name, figure in figures.items() for path in _write(figure, folder / "figures", name)]


def read_decode(path: Path) -> pd.DataFrame:
    """Read the ``decode.csv`` of a folder, or that file.

    Raises
    ------
    InputError
        If it is not there, or no such table.
    """
    from sparsemm.efficiency.decode_table import COLUMNS

    file = path / "decode.csv" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"no decode times at {path}: there is no {file} (`sparsemm efficiency decode`)")
    try:
        table = pd.read_csv(file)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no table ({' '.join(str(error).split())})") from None
    if missing := [column for column in COLUMNS if column not in table.columns]:
        raise InputError(f"{file} lacks the columns {', '.join(missing)}")
    return table


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=4)


def _write(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write one figure in all formats, each atomically, without dates: the same data give the same bytes."""
    written = []
    for format in FORMATS:
        undated = {"CreationDate": None} if format == "pdf" else None

        def draw(beside: Path, format: str = format, undated: dict[str, None] | None = undated) -> None:
            with mpl.rc_context(RC):
                figure.savefig(beside, format=format, metadata=undated)

        write_atomically(folder / f"{name}.{format}", draw)
        written.append(folder / f"{name}.{format}")
    return written
