"""Goes down the programme's list as far as the time allows, and writes after every step."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.utils import logging

from sparsemm.configs import InputError
from sparsemm.efficiency import Measured, Report
from sparsemm.efficiency.clocks import release
from sparsemm.efficiency.decode_table import COLUMNS as DECODE_COLUMNS
from sparsemm.efficiency.decode_table import IDENTITY, as_text, now, read_csv, record, write_csv
from sparsemm.efficiency.gpu import kernel
from sparsemm.efficiency.gpu.steps import CUT, DECODE, FULL, KERNEL, Found, Step, programme
from sparsemm.models.loading import default_device, torch_device
from sparsemm.recording import write_json

SCHEMA_VERSION = 1
RECORD = "gpu.json"
TABLES = {DECODE: DECODE_COLUMNS, KERNEL: kernel.COLUMNS}
IDENTITIES: dict[str, Collection[str]] = {DECODE: IDENTITY, KERNEL: kernel.IDENTITY}
"""Columns of each table that say what a row is the measurement of."""

SHOWN = {"step": "step", "seconds": "about s", "state": "state", "about": "what it tells"}


def run(config: Mapping[str, Any], report: Report) -> Measured:
    """Run what is not done yet, in order, as long as a step's estimate fits into what is left.

    Parameters
    ----------
    config
        ``eval_configs/efficiency.yaml`` with ``benchmark/gpu.yaml``, resolved.
    report
        Called before every step, and before every turn within one.

    Returns
    -------
    Measured
        A row for each step; `unfinished` says what was left out or failed.

    Raises
    ------
    InputError
        Wrong options, no GPU for a programme that is not cut, a folder that holds something else.
    """
    seconds = config["max_seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise InputError(f"max_seconds must be a positive number, got {seconds!r}")
    for name in ("plan", "cut"):
        if not isinstance(config[name], bool):
            raise InputError(f"{name} must be true or false, got {config[name]!r}")
    device = torch_device(config["device"] or default_device())
    if device.type != "cuda" and not (config["cut"] or config["plan"]):
        raise InputError("there is no GPU: cut=true tries the programme on a CPU, plan=true lists it")
    folder = Path(config["output"])
    state = _read(folder / RECORD, config["cut"])
    logging.disable_progress_bar()
    steps = programme(config["model"], device, CUT if config["cut"] else FULL)
    if config["plan"]:
        return Measured(folder / RECORD, _rows(steps, state, {}), SHOWN)
    began, start = now(), time.monotonic()
    state["runs"][began] = record(config)
    left_out: dict[str, str] = {}
    for number, step in enumerate(steps):
        if "failed" not in state["steps"].get(step.name, {"failed": None}):
            continue
        left = seconds - (time.monotonic() - start)
        if step.seconds > left:
            left_out[step.name] = f"left out: it needs about {step.seconds:g} s, {max(0, left):.0f} were left"
            continue
        report(number, len(steps), step.name)
        _take(step, state, folder, began, lambda text, number=number: report(number, len(steps), text))
    unfinished = tuple(
        f"{step.name}: {left_out.get(step.name) or state['steps'][step.name]['failed']}"
        for step in steps
        if step.name in left_out or "failed" in state["steps"][step.name]
    )
    return Measured(folder / RECORD, _rows(steps, state, left_out), SHOWN, unfinished)


def _take(step: Step, state: dict[str, Any], folder: Path, began: str, report: Any) -> None:
    """Run one step and write what it found; one that fails is noted, and the next has its turn."""
    start = time.monotonic()
    entry: dict[str, Any] = {"run": began, "date": now()}
    found = Found({})
    try:
        found = step.run(report)
    except Exception as error:
        entry["failed"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        traceback.print_exc()
    with suppress(RuntimeError):  # after an error of the device's own, nothing works in this process any more
        release()
    entry = {**entry, "took_s": round(time.monotonic() - start, 1), **_rounded(found.numbers)}
    if found.table is not None:
        entry["rows_in"] = found.table
        table = _with_rows(state["tables"].get(found.table, []), found.rows, IDENTITIES[found.table])
        state["tables"][found.table] = table
        write_csv(folder / found.table, TABLES[found.table], table)
    state["steps"][step.name] = entry
    write_json(folder / RECORD, {name: state[name] for name in ("schema_version", "cut", "runs", "steps")})


def _with_rows(
    table: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], identity: Collection[str]
) -> list[Mapping[str, Any]]:
    """A table with new rows, in the place of those of the same: a step that was killed may have left some."""

    def key(row: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(as_text(row.get(name)) for name in identity)

    new = {key(row) for row in rows}
    return [*(row for row in table if key(row) not in new), *rows]


def _rounded(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Six digits of what is no integer."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in numbers.items()
    }


def _rows(steps: list[Step], state: Mapping[str, Any], left_out: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = []
    for step in steps:
        entry = state["steps"].get(step.name)
        done = "to do" if entry is None else "failed" if "failed" in entry else "done"
        rows.append(
            {
                "step": step.name,
                "seconds": step.seconds,
                "state": "left out" if step.name in left_out else done,
                "about": step.about,
            }
        )
    return rows


def _read(path: Path, cut: bool) -> dict[str, Any]:
    """What was done before, and the tables beside the record.

    Raises
    ------
    InputError
        It is another file, or the steps in it had other sizes.
    """
    empty: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "cut": cut,
        "runs": {},
        "steps": {},
        "tables": {},
    }
    if not path.is_file():
        return empty
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version, runs, steps = found["schema_version"], dict(found["runs"]), dict(found["steps"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no record of this programme: name another folder (output=...)") from None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{path} is of version {version}, not {SCHEMA_VERSION}: name another folder (output=...)"
        )
    if found.get("cut", False) is not cut:  # steps of both have the same names, and would count as done
        raise InputError(f"{path} is of cut={str(not cut).lower()}: name another folder (output=...)")
    tables = {name: read_csv(path.parent / name, columns) for name, columns in TABLES.items()}
    return {**empty, "runs": runs, "steps": steps, "tables": tables}
