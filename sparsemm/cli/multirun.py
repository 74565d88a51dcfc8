"""``sparsemm sweep -m …``: the jobs of a Hydra multirun, checked before they are launched, and counted after.

Who starts the jobs, and where, is Hydra's launcher (``eval_configs/hydra/launcher/``). Here is what all of
them need: which jobs there are, which of them are done already, and at the end which failed and why.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import open_dict

from sparsemm.cli.given import check_names, own_checkpoint
from sparsemm.cli.resolving import resolve
from sparsemm.cli.running import version_base
from sparsemm.configs import InputError, shipped
from sparsemm.evaluation.jobs import (
    FAILED,
    FINISHED,
    RUNNING,
    WAITING,
    Job,
    Launch,
    job_names,
    jobs_folder,
    read_job,
    write_job,
)
from sparsemm.evaluation.results import (
    check_folder,
    derive_union,
    has_run,
    is_finished,
    set_broken_aside,
    write_run,
)

if TYPE_CHECKING:
    from sparsemm.evaluation.cells import Cell
    from sparsemm.evaluation.sweep import Outcome

GRACE_S = 10.0
"""How long a job that waits is waited for once none is running and the launcher has given up."""


@dataclass(frozen=True, eq=False)
class Planned:
    """One job of a multirun before it is launched: its values of the swept options, configuration, cells."""

    values: tuple[str, ...]
    config: dict[str, Any]
    cells: list[Cell]

    @property
    def folder(self) -> Path:
        """Of its results."""
        return Path(self.config["output"])

    def is_done(self) -> bool:
        """Whether nothing of it is left to be measured."""
        return all(is_finished(self.folder, cell.id) for cell in self.cells)


def choices(overrides: Sequence[str]) -> list[list[str]]:
    """The values of each option, as overrides, in the order of Hydra's own sweeper.

    Raises
    ------
    InputError
        Another sweeper is chosen: it alone would know the jobs. Or an option's range is empty.
    """
    found: dict[str, list[str]] = {}
    for one in OverridesParser.create().parse_overrides([one for one in overrides if one[:1] != "-"]):
        key = one.get_key_element()
        if key.startswith("hydra/sweeper"):
            raise InputError("sweeps are run by Hydra's basic sweeper; leave out hydra/sweeper")
        if one.is_sweep_override():
            values = (f"{key}={value}" for value in one.sweep_string_iterator())
            found[key] = list(dict.fromkeys(values))
            if not found[key]:
                raise InputError(f"{one.input_line} has no value: no job would run")
        else:
            found[key] = [f"{key}={one.get_value_element_as_str()}"]
    return list(found.values())


def configurations(
    name: str, options: Sequence[Sequence[str]]
) -> list[tuple[tuple[str, ...], dict[str, Any]]]:
    """Each job's overrides and resolved configuration.

    Raises
    ------
    InputError
        An option that the verb does not have.
    """
    composed: list[tuple[tuple[str, ...], dict[str, Any]]] = []
    with initialize_config_dir(str(shipped("eval_configs")), **version_base()):
        for values in itertools.product(*options):
            job = compose(name, list(values), return_hydra_config=True)
            chosen = job.hydra.runtime.choices
            with open_dict(job):
                del job["hydra"]
            own_checkpoint(job, chosen, values)
            resolved = resolve(name, job)
            check_names(name, resolved)
            composed.append((values, resolved))
    return composed


def run(
    options: Sequence[Sequence[str]],
    composed: Sequence[tuple[tuple[str, ...], dict[str, Any]]],
    start: Callable[[list[str], Launch], None],
) -> list[Outcome]:
    """Launch the jobs of a multirun that are not done, wait for them, and say how each ended.

    Parameters
    ----------
    options : sequence of sequence of str
        As `choices` gave them.
    composed : sequence of (tuple of str, dict)
        As `configurations` gave them.
    start : callable
        Hands overrides to Hydra's launcher and returns when the jobs have ended; it may raise what the
        launcher raises.

    Returns
    -------
    list of Outcome
        One for each job, those that were done before included.

    Raises
    ------
    InputError
        Something is wrong with one of the jobs, found before any is launched; or no job could be launched.
    """
    # Here, because they import torch: a wrong name is found before.
    from sparsemm.evaluation.one_model import check_one_model
    from sparsemm.evaluation.planning import check_options, plan
    from sparsemm.evaluation.sweep import groups_of

    for _, config in composed:
        check_options(config)
    if any(config["plan"] for _, config in composed):
        from sparsemm.evaluation.estimate import plan_jobs

        plan_jobs([config for _, config in composed])
        return []
    jobs = [Planned(values, config, plan(config)) for values, config in composed]
    first = os.environ.get("RANK", "0") == "0"  # of several processes (torchrun), which run the jobs in turn
    for folder in {job.folder for job in jobs}:
        check_folder(folder)
        for notice in set_broken_aside(folder) if first else ():
            print(notice, file=sys.stderr)
        check_one_model(folder, [cell for job in jobs if job.folder == folder for cell in job.cells])
    left = [job for job in jobs if not job.is_done()]
    groups = {key: group for job in jobs for key, group in groups_of(job.cells).items()}
    names: dict[tuple[str, ...], str] = {}
    if left:
        kept = [[value for value in option if any(value in job.values for job in left)] for option in options]
        launched = [job for job in jobs if job.values in set(itertools.product(*kept))]
        names = dict(zip((job.values for job in jobs), job_names(job.config for job in jobs), strict=True))
        names = {job.values: names[job.values] for job in launched}
        launch = Launch.of(names.values(), groups)
        if first:
            for folder in {job.folder for job in launched}:
                _write_run(folder, jobs)
            for job, name in zip(launched, launch.names, strict=True):
                write_job(job.folder, Job(name, launch.id))
        failure, since = None, time.time()
        try:
            start([",".join(_joined(option)) for option in kept], launch)
        except Exception as error:  # a job that was killed, or a launcher that cannot launch
            failure = error
            if ["hydra/launcher=slurm"] in options:
                _wait_in_slurm(launched, since)
            _wait_for_others(launched, launch)
        if not first:
            return []
        ended = {job.values: read_job(job.folder, names[job.values]) for job in launched}
        if failure is not None and all(one is None or one.state == WAITING for one in ended.values()):
            _withdraw(launched, launch)
            raise InputError(f"no job could be launched: {_shortly(failure)}") from failure
    else:
        ended, launch, failure = {}, Launch.of((), groups), None
        for folder in {job.folder for job in jobs} if first else ():
            if not has_run(folder):
                _write_run(folder, jobs)
    tables = {folder: derive_union(folder, groups) for folder in _with_cells(jobs)}
    return [_outcome(job, ended.get(job.values), launch, tables.get(job.folder), failure) for job in jobs]


def _joined(option: Sequence[str]) -> list[str]:
    """``["task=a", "task=b"]`` -> ``["task=a", "b"]``."""
    key = option[0].partition("=")[0]
    return [option[0], *(value.removeprefix(f"{key}=") for value in option[1:])]


def _write_run(folder: Path, jobs: Sequence[Planned]) -> None:
    """Write ``run.json``: the options of all jobs of a folder together."""
    configs = [job.config for job in jobs if job.folder == folder]
    merged = {**configs[0], **{key: _union(configs, key) for key in ("tasks", "methods", "ablations")}}
    models = {config["model"]["name"]: config["model"] for config in configs}
    write_run(folder, {**merged, "models": models} if len(models) > 1 else merged)


def _union(configs: Sequence[Mapping[str, Any]], key: str) -> dict[str, Any]:
    return {name: value for config in configs for name, value in (config.get(key) or {}).items()}


def _withdraw(jobs: Sequence[Planned], launch: Launch) -> None:
    for job, name in zip(jobs, launch.names, strict=True):
        (jobs_folder(job.folder) / f"{name}.json").unlink(missing_ok=True)


def _wait_for_others(jobs: Sequence[Planned], launch: Launch) -> None:
    """Wait for jobs that go on though the launcher waits no more: it stops at the first that was killed."""
    alone_since = time.monotonic()
    while True:
        said = [read_job(job.folder, name) for job, name in zip(jobs, launch.names, strict=True)]
        states = [one.state for one in said if one is not None and not one.is_lost()]
        if set(states) == {WAITING}:  # none has ever begun
            return
        if RUNNING in states:
            alone_since = time.monotonic()
        elif WAITING not in states or time.monotonic() - alone_since > GRACE_S:
            return
        time.sleep(0.5)


def _wait_in_slurm(jobs: Sequence[Planned], since: float) -> None:
    """The same for jobs in Slurm's queue, which nothing but Slurm knows of before they start."""
    from submitit import SlurmJob

    for log in {jobs_folder(job.folder) / "log" for job in jobs}:
        for path in sorted(log.glob("*_submitted.pkl")):
            if path.stat().st_mtime >= since:
                SlurmJob(log, path.name.removesuffix("_submitted.pkl")).wait()


def _with_cells(jobs: Sequence[Planned]) -> set[Path]:
    return {job.folder for job in jobs if any((job.folder / "cells").glob("*.json"))}


def _outcome(
    job: Planned, ended: Job | None, launch: Launch, table: Any, failure: Exception | None
) -> Outcome:
    """How one job ended, from what is written down of it."""
    import pandas as pd

    from sparsemm.evaluation.sweep import Outcome

    done = Outcome(job.cells, job.folder, pd.DataFrame() if table is None else table)
    if ended is None:
        return done
    if ended.state == FINISHED and ended.launch == launch.id:
        return replace(done, failed={(task, doc_id): why for task, doc_id, why in ended.failed})
    if job.is_done():  # by another launch, or killed when all was written
        return done
    reason = ended.reason if ended.state == FAILED else None
    if reason is None:
        reason = "it did not end by itself: killed, cancelled, or out of memory"
        reason += f" ({_shortly(failure)})" if failure is not None else ""
    return replace(done, cells=[], error=f"{ended.name}: {reason}")


def _shortly(error: Exception) -> str:
    """An error in one line: of submitit's, which go on with the job's log, the first two."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}".removesuffix(": ")
