"""Verbs that look at what is there, results and names: they take a path, and need no Hydra."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sparsemm.configs import InputError, given_or_shipped, names, summary


def figures(arguments: Sequence[str]) -> int:
    """``sparsemm figures RESULTS``."""
    parser = argparse.ArgumentParser(
        prog="sparsemm figures", description="Draw the figures of a results folder."
    )
    parser.add_argument("results", help="results/<experiment>, or the output of `sparsemm efficiency decode`")
    parser.add_argument(
        "--width", choices=["column", "full"], help="of a column, or of a full page; default: each figure's"
    )
    parser.add_argument("--efficiency", metavar="FOLDER", help="decode times, to draw scores against them")
    parser.add_argument(
        "--paper", action="store_true", help="mark the scores that SparseMM's authors published"
    )
    _add_head_scores(parser)
    options = parser.parse_args(arguments)
    from sparsemm.figures import save
    from sparsemm.figures.style import WIDTHS

    for path in save(
        options.results,
        width=WIDTHS[options.width] if options.width else None,
        efficiency=options.efficiency,
        paper=options.paper,
        heads=options.head_scores,
        say=lambda line: print(line, file=sys.stderr),
    ):
        print(path)
    return 0


def _add_head_scores(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--head-scores",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="that the cells used, where they are not in the folder",
    )


def report(arguments: Sequence[str]) -> int:
    """``sparsemm report RESULTS``."""
    parser = argparse.ArgumentParser(
        prog="sparsemm report",
        description="Make one HTML page of a results folder: tables, charts, and every sample's answers.",
    )
    parser.add_argument("results", type=Path, help="results/<experiment>")
    parser.add_argument("-o", "--output", type=Path, help="the file (default: report.html in the folder)")
    parser.add_argument("--efficiency", type=Path, metavar="FOLDER", help="of `sparsemm efficiency decode`")
    parser.add_argument("--documents", type=int, metavar="N", help="samples, of all tasks (default: 2000)")
    parser.add_argument(
        "--data", action="append", default=[], metavar="TASK=FILES", help="parquet files of an official task"
    )
    _add_head_scores(parser)
    parser.add_argument(
        "--serve", action="store_true", help="show it on this machine, also while a sweep runs"
    )
    parser.add_argument("--port", type=int, help="of --serve (default: 8765; 0: any)")
    given = parser.parse_args(arguments)
    if given.serve and given.output:
        raise InputError("--serve writes no file: leave --output out")
    if given.port is not None and not given.serve:
        raise InputError("--port belongs to --serve")
    if given.documents is not None and given.documents < 1:
        raise InputError(f"--documents must be a positive integer, got {given.documents}")
    if given.port is not None and not 0 <= given.port < 65536:
        raise InputError(f"--port must be between 0 and 65535, got {given.port}")
    from sparsemm.report import PageOptions, write_report

    options = PageOptions.of(given.efficiency, given.documents, given.data, given.head_scores)
    if given.serve:
        from sparsemm.report.serve import PORT, serve

        serve(given.results, options, port=PORT if given.port is None else given.port)
    else:
        print(write_report(given.results, given.output or given.results / "report.html", options))
    return 0


def status(arguments: Sequence[str]) -> int:
    """``sparsemm status RESULTS``."""
    parser = argparse.ArgumentParser(
        prog="sparsemm status", description="Show how far a sweep is, also while it runs."
    )
    parser.add_argument("results", help="results/<experiment>")
    folder = Path(parser.parse_args(arguments).results)
    from rich.console import Console

    from sparsemm.evaluation.status import print_status, read_status

    print_status(folder, read_status(folder), Console(highlight=False, markup=False))
    return 0


def overlap(arguments: Sequence[str]) -> int:
    """``sparsemm overlap HEADS OTHER``."""
    parser = argparse.ArgumentParser(
        prog="sparsemm overlap",
        description="Share of the top heads that two files of head scores have in common.",
    )
    parser.add_argument(
        "heads", help="head scores: .safetensors of `sparsemm heads`, or the paper's released .json"
    )
    parser.add_argument("other", help="others of the same model")
    parser.add_argument("--output", type=Path, help="write the table here, as CSV")
    options = parser.parse_args(arguments)
    from rich.console import Console

    from sparsemm.heads import HeadScores
    from sparsemm.heads.overlap import overlap as measured
    from sparsemm.heads.terminal import print_overlap
    from sparsemm.recording import write_atomically

    one, other = (HeadScores.load(given_or_shipped(path)) for path in (options.heads, options.other))
    table = measured(one, other)
    if options.output:
        write_atomically(options.output, lambda beside: table.round(6).to_csv(beside, index=False))
    print_overlap(table, Console(highlight=False, markup=False))
    return 0


def list_names(arguments: Sequence[str]) -> int:
    """``sparsemm list methods|models|tasks``."""
    parser = argparse.ArgumentParser(prog="sparsemm list", description="List what can be named in a sweep.")
    parser.add_argument("what", choices=["methods", "models", "tasks"])
    parser.add_argument(
        "--include-path",
        action="store_true",
        help="tasks: print the folder for lmms-eval's --include_path instead",
    )
    options = parser.parse_args(arguments)
    group = options.what.removesuffix("s")
    if options.include_path:
        if group != "task":
            raise InputError("--include-path belongs to `sparsemm list tasks`")
        from sparsemm.evaluation.tasks import include_path

        print(include_path())
        return 0
    known = names(group)
    width = max(map(len, known))
    for name in known:
        print(f"{name:{width}}  {summary(group, name)}".rstrip())
    return 0


PATH_VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "figures": figures,
    "report": report,
    "status": status,
    "overlap": overlap,
    "list": list_names,
}
