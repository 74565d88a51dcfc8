"""Rendering: one HTML file with its data, styles, scripts and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from sparsemm.configs import InputError
from sparsemm.recording import write_atomically
from sparsemm.report import tables
from sparsemm.report.allocations import allocation_maps
from sparsemm.report.escaping import content_security_policy, script_json
from sparsemm.report.folder import Results, read_results
from sparsemm.report.provenance import provenance
from sparsemm.report.samples import DOCUMENTS, explorer

SCRIPTS = ("page.js", "charts.js", "explorer.js", "start.js")
"""Joined in this order into one script."""


@dataclass(frozen=True)
class PageOptions:
    """What can be chosen of a page.

    Attributes
    ----------
    efficiency : Path, optional
        A ``decode.csv`` of ``sparsemm efficiency decode``.
    documents : int, default 2000
        How many documents the sample explorer has, of all tasks together.
    data : mapping
        Parquet files of official tasks, by task, where they are not in the results folder.
    head_scores : tuple of Path
        Files of head scores that the cells used, where they are not in the results folder.
    """

    efficiency: Path | None = None
    documents: int = DOCUMENTS
    data: Mapping[str, str] = field(default_factory=dict)
    head_scores: tuple[Path, ...] = ()

    @classmethod
    def of(
        cls,
        efficiency: Path | None,
        documents: int | None,
        data: Sequence[str],
        head_scores: Sequence[Path] = (),
    ) -> PageOptions:
        """Read what the command line gave; `data` as ``TASK=FILES``.

        Raises
        ------
        InputError
            An entry of `data` has no ``=``.
        """
        pairs = [entry.partition("=") for entry in data]
        for (task, _, held), entry in zip(pairs, data, strict=True):
            if not task or not held:
                raise InputError(f"--data must be TASK=FILES, got {entry!r}")
        return cls(
            efficiency, documents or DOCUMENTS, {task: held for task, _, held in pairs}, (*head_scores,)
        )


def write_report(folder: Path, output: Path, options: PageOptions | None = None) -> Path:
    """Write the report of a results folder, in one step: a file that is there is replaced by a whole one.

    Parameters
    ----------
    folder : Path
        ``results/<experiment>``.
    output : Path
        The HTML file; its folder must exist.
    options : PageOptions, optional

    Raises
    ------
    InputError
        There is no such folder, or none to write into.
    FileNotFoundError
        There are no results.
    ValueError
        A table is corrupt.
    OSError
        It cannot be written.
    """
    results = read_results(folder)
    if not output.parent.is_dir():
        raise InputError(f"no such folder: {output.parent}; make it first, or name another --output")
    if output.is_dir():
        raise InputError(f"{output} is a folder; --output names a file (report.html)")
    page = build_page(results, options)
    write_atomically(output, lambda beside: beside.write_text(page, encoding="utf-8"))
    return output


def build_page(results: Results, options: PageOptions | None = None, *, version: str | None = None) -> str:
    """The page's text.

    Parameters
    ----------
    results : Results
    options : PageOptions, optional
    version : str, optional
        Of a served page: it asks its server whether there is another one.
    """
    options = options or PageOptions()
    cells = results.cells
    groups = tables.groups(cells)
    rows = tables.cell_rows(cells, results.ids)
    heads, missing_heads = tables.head_maps(results, options.head_scores)
    samples = explorer(results, groups, rows, documents=options.documents, data=options.data)
    shared = {
        "live": version,
        "groups": groups,
        "methods": tables.methods(cells),
        "ablations": tables.ablations(cells),
        "cells": rows,
        "heads": heads,
        "efficiency": tables.efficiency_rows(options.efficiency) if options.efficiency else [],
        "pictures": {task: index for index, task in enumerate(samples.pictures)},
    }
    environment = Environment(
        loader=PackageLoader("sparsemm.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"script_json": script_json, "fixed": fixed, "signed": signed}
    script = "\n".join(_asset(name) for name in SCRIPTS)
    plotly = get_plotlyjs()
    return environment.get_template("page.html").render(
        name=results.folder.resolve().name,
        policy=content_security_policy([plotly, script], live=version is not None),
        style=Markup(_asset("page.css")),
        plotly=Markup(plotly),
        script=Markup(script),
        shared=shared,
        comparisons=tables.comparison_rows(results.comparisons, cells),
        efficiency_columns=tables.EFFICIENCY_COLUMNS,
        samples=samples,
        provenance=provenance(results),
        allocations=allocation_maps(results, rows),
        notices=[*results.notices, *missing_heads, *samples.notices],
        **shared,
    )


def _asset(name: str) -> str:
    return (files("sparsemm.report") / "assets" / name).read_text(encoding="utf-8")


def fixed(value: Any, digits: int = 3) -> str:
    """A number with so many digits behind the point; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: Any, digits: int = 3) -> str:
    """The same with its sign."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")
