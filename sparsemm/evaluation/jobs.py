"""The jobs of a multirun: each is a sweep of its own, into a folder that they share.

``jobs/<name>.json`` says how a job is. The command that launches writes it (waiting), then the job itself
(running, and how it ended); whoever looks needs no scheduler for that.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from sparsemm.evaluation.processes import join_scheduler
from sparsemm.recording import write_json

WAITING, RUNNING, FINISHED, FAILED, INTERRUPTED = "waiting", "running", "finished", "failed", "interrupted"
"""States of a job; interrupted: told to stop (preempted, out of time, Ctrl-C), what was answered is kept."""

FAILURES_KEPT = 20
"""So many documents that failed are kept with their reason."""


@dataclass(frozen=True)
class Launch:
    """What the jobs of one multirun share; it travels to them.

    Attributes
    ----------
    id : str
        Of no other launch.
    directory : str
        Working directory of the command, to which its paths are relative.
    names : tuple of str
        Of the jobs, by number.
    groups : dict
        (model, task) -> group of cells that the tables are to show, over all jobs.
    """

    id: str
    directory: str
    names: tuple[str, ...]
    groups: dict[tuple[str, str], str]

    @classmethod
    def of(cls, names: Iterable[str], groups: Mapping[tuple[str, str], str]) -> Launch:
        """A new launch from the working directory."""
        return cls(uuid.uuid4().hex, str(Path.cwd()), tuple(names), dict(groups))


@dataclass(frozen=True)
class Job:
    """How a job is.

    Attributes
    ----------
    name : str
        ``<model>.<task>``; with a number where a launch has several of it.
    launch : str
        Id of the launch.
    state : str
        waiting, running, finished, failed or interrupted.
    scheduled : str
        The scheduler's number of it; empty where there is none.
    host, pid
        Where it runs, or ran; of several processes, the first.
    started, ended : float or None
        Seconds since 1970.
    reason : str or None
        Why it failed, or was interrupted.
    failed : list of (task, doc_id, reason)
        Documents that could not be answered; the first `FAILURES_KEPT`.
    """

    name: str
    launch: str
    state: str = WAITING
    scheduled: str = ""
    host: str = ""
    pid: int = 0
    started: float | None = None
    ended: float | None = None
    reason: str | None = None
    failed: list[tuple[str, int, str]] = field(default_factory=list)

    def is_lost(self) -> bool:
        """Whether it says that it runs, on this machine, and no such process is there."""
        here = self.state == RUNNING and self.host == socket.gethostname()
        return here and not psutil.pid_exists(self.pid)


def job_names(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names for the jobs of a multirun, from their resolved configurations."""
    names: list[str] = []
    seen: Counter[str] = Counter()
    for config in configs:
        tasks = list(config["tasks"])
        what = "+".join(tasks) if len(tasks) <= 2 else f"{tasks[0]}+{len(tasks) - 1}_more"
        name = re.sub(r"[^\w.+-]", "_", f"{config['model']['name']}.{what}")
        seen[name] += 1
        names.append(f"{name}-{seen[name]}" if seen[name] > 1 else name)
    return names


def jobs_folder(folder: Path) -> Path:
    """Where a results folder says how its jobs are."""
    return Path(folder) / "jobs"


def write_job(folder: Path, job: Job) -> None:
    """Say how a job is, atomically."""
    write_json(jobs_folder(folder) / f"{job.name}.json", asdict(job))


def read_job(folder: Path, name: str) -> Job | None:
    """How a job is; None if nothing, or nothing that can be read, is said of it."""
    path = jobs_folder(folder) / f"{name}.json"
    if not path.is_file():
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        job = Job(**{**said, "failed": [tuple(one) for one in said["failed"]]})
    except (FileNotFoundError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return job if _has_types(job) else None


def _has_types(job: Job) -> bool:
    """Whether each value has the type that `Job` says, and its state is one of the five."""
    texts = (job.name, job.launch, job.scheduled, job.host)
    numbers = [job.pid, *(time for time in (job.started, job.ended) if time is not None)]
    return (
        job.state in (WAITING, RUNNING, FINISHED, FAILED, INTERRUPTED)
        and all(isinstance(text, str) for text in texts)
        and isinstance(job.reason, str | None)
        and isinstance(job.pid, int)
        and all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
        and all(list(map(type, one)) == [str, int, str] for one in job.failed)
    )


def read_jobs(folder: Path) -> list[Job]:
    """All jobs of a results folder, by name."""
    names = [path.stem for path in sorted(jobs_folder(folder).glob("*.json"))]
    found = ((name, read_job(folder, name)) for name in names)
    return [job for name, job in found if job is not None and job.name == name]  # not a sync program's copy


def scheduler_id() -> str:
    """What Slurm calls the job in which this process runs; empty outside of Slurm."""
    array, number = (os.environ.get(f"SLURM_ARRAY_{what}") for what in ("JOB_ID", "TASK_ID"))
    return f"{array}_{number}" if array else os.environ.get("SLURM_JOB_ID", "")


def run_job(launch: Launch, number: int, config: Mapping[str, Any]) -> None:
    """Run one job of a launch, in whatever process the launcher chose, and write down how it ended.

    An error ends this job alone: it is written down, not raised.

    Parameters
    ----------
    launch : Launch
    number : int
        Which of its jobs.
    config : mapping
        ``eval_configs/sweep.yaml``, resolved.
    """
    from sparsemm.evaluation.sweep import run

    os.chdir(launch.directory)
    rank, folder = join_scheduler(), Path(config["output"])
    job = Job(launch.names[number], launch.id, RUNNING, scheduler_id(), socket.gethostname(), os.getpid())
    job = replace(job, started=time.time())
    if rank == 0:
        write_job(folder, job)
    try:
        outcome = run(config, job=job.name, groups=launch.groups)
    except Exception as error:
        unexpected = not isinstance(error, ValueError | OSError)
        if unexpected:
            traceback.print_exc()
        reason = " ".join(f"{f'{type(error).__name__}: ' if unexpected else ''}{error}".split())
        print(f"sparsemm: {job.name}: {reason}", file=sys.stderr)
        _fail(folder, job, rank, reason)
    except BaseException as error:
        if rank == 0:
            reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "told to stop"
            write_job(folder, replace(job, state=INTERRUPTED, ended=time.time(), reason=reason))
        raise
    else:
        if rank == 0:
            failed = [(*key, reason) for key, reason in outcome.failed.items()][:FAILURES_KEPT]
            write_job(folder, replace(job, state=FINISHED, ended=time.time(), failed=failed))


def _fail(folder: Path, job: Job, rank: int, reason: str) -> None:
    """Write down a failure; of several processes that of the one which failed first: the others miss it."""
    said = read_job(folder, job.name)
    same = said if said is not None and said.launch == job.launch else job
    if same.state != FAILED:
        shown = same if rank > 0 else job
        write_job(folder, replace(shown, state=FAILED, ended=time.time(), reason=reason))
