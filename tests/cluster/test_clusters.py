"""The same rows from Slurm, Ray and several processes as from one; jobs are cancelled and killed.

One file: these tests take turns (``--dist=loadfile``). Slurm's run where it is installed and the user is
root; ``SPARSEMM_TEST_SLURM=install`` lets them install it.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from sparsemm import cli
from sparsemm.cli.launchers import PLUGINS
from sparsemm.evaluation.storefile import snapshot

SCRIPT = Path(__file__).with_name("one_node_slurm.sh")
DOCUMENTS = 24  # a cancelled job must still be at work when Slurm, seconds later, kills it
TASKS = ("tiny_docvqa", "tiny_ocr")
GRID = ["experiment=demo", "method=[fullkv,snapkv]", "budget=[12]", "batch_size=1", "max_new_tokens=64"]
GRID += [f"limit={DOCUMENTS}", "output=results/run"]
TABLES = ("cells.csv", "comparisons.csv", "samples.parquet")
SLURM = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1"]
RAY = ["hydra/launcher=ray", "hydra.launcher.ray.remote.num_gpus=0", "+hydra.launcher.ray.init.num_cpus=2"]
RAY += ["+hydra.launcher.ray.init.include_dashboard=false"]
RAY += ["hydra.launcher.ray.init.object_store_memory=80000000"]
PATIENCE_S = 600
STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    while STARTED:
        STARTED.pop().kill()


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of all commands: made data go to a temporary folder."""
    made = {name: str(tmp_path_factory.mktemp("cache")) for name in ("SPARSEMM_CACHE", "HF_DATASETS_CACHE")}
    return {**os.environ, **made, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, caches: dict[str, str]) -> Path:
    """Results of one process that runs both tasks."""
    folder = tmp_path_factory.mktemp("plain")
    ended = subprocess.run(command(f"task=[{','.join(TASKS)}]"), cwd=folder, env=caches, capture_output=True)
    assert ended.returncode == 0, ended.stderr
    return folder / "results/run"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory, caches: dict[str, str]) -> Iterator[dict[str, str]]:
    """The environment in which a Slurm of one node answers."""
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons need root")
    if os.environ.get("SPARSEMM_TEST_SLURM") == "install":
        installed = subprocess.run([SCRIPT, "install"], capture_output=True, text=True)
        if installed.returncode:
            pytest.skip(f"Slurm cannot be installed here: {installed.stderr.strip()[-200:]}")
    if not all(map(which, ("sbatch", "slurmctld", "slurmd", "munged"))):
        pytest.skip("no Slurm here: apt-get install slurm-wlm munge, or SPARSEMM_TEST_SLURM=install")
    folder = Path(f"/run/sparsemm-slurm-{os.getpid()}")  # munge trusts no folder that others may write to
    try:
        started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True)
        assert started.returncode == 0, started.stderr
        path = f"{SCRIPT.with_name('accounting')}:{os.environ['PATH']}"
        yield {**caches, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)


def needs(launcher: str) -> pytest.MarkDecorator:
    """Skip where a launcher's plugin is not installed."""
    from importlib.util import find_spec

    plugin = PLUGINS[launcher]
    there = find_spec("hydra_plugins") and find_spec(f"hydra_plugins.{plugin}")
    return pytest.mark.skipif(not there, reason=f"{plugin} is not installed")


def command(*overrides: str) -> list[str]:
    flags = [one for one in overrides if one == "-m"]
    rest = [one for one in overrides if one != "-m"]
    return [sys.executable, "-m", "sparsemm", "sweep", *flags, *GRID, *rest]


def multirun(*overrides: str) -> list[str]:
    return command("-m", f"task={','.join(TASKS)}", *overrides)


def start(folder: Path, environment: dict[str, str], *overrides: str) -> subprocess.Popen[str]:
    log = (folder / "said.txt").open("w")
    STARTED.append(
        subprocess.Popen(
            multirun(*overrides), cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True
        )
    )
    return STARTED[-1]


def said(folder: Path) -> str:
    return (folder / "said.txt").read_text()


def job(folder: Path, task: str) -> dict[str, Any]:
    """What is written down of a job; nothing where nothing is."""
    path = folder / f"results/run/jobs/tiny.{task}.json"
    return json.loads(path.read_text()) if path.exists() else {"state": "", "pid": 0}


def stored(folder: Path, task: str) -> list[tuple]:
    """Responses of a task, doubles included; what a killed process had not committed is none."""
    found: list[tuple] = []
    for path in (folder / "results/run/responses").glob("*/*.sqlite"):
        try:
            with snapshot(path) as connection:
                query = "SELECT run, cell, doc_id FROM response WHERE task = ?"
                found += connection.execute(query, (task,)).fetchall()
        except (sqlite3.Error, OSError):  # just being made, or in the middle of a commit
            continue
    return found


def wait_until(reached: Callable[[], bool], process: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert process.poll() is None, said(folder)
        assert time.monotonic() < deadline, f"no progress\n{said(folder)}"
        time.sleep(0.05)


def ended(process: subprocess.Popen[str], folder: Path) -> int:
    try:
        return process.wait(PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"it does not end\n{said(folder)}")


def assert_same(folder: Path, expected: Path) -> None:
    for name in TABLES:
        assert (folder / "results/run" / name).read_bytes() == (expected / name).read_bytes(), name


@needs("slurm")
@pytest.mark.slow
def test_slurm(slurm: dict[str, str], expected: Path, tmp_path: Path) -> None:
    process = start(tmp_path, slurm, *SLURM)
    wait_until(lambda: len(stored(tmp_path, "tiny_ocr")) >= 4, process, tmp_path)
    number = job(tmp_path, "tiny_ocr")["scheduled"]
    subprocess.run(["scancel", number], env=slurm, check=True)
    assert ended(process, tmp_path) == 1
    assert "failed: tiny.tiny_ocr: it did not end by itself" in said(tmp_path)
    assert "(state: CANCELLED)" in said(tmp_path)
    assert "1 of 2 jobs failed; the same command runs only those again" in said(tmp_path)
    kept = stored(tmp_path, "tiny_ocr")
    assert 4 <= len(kept) < 2 * DOCUMENTS
    look = subprocess.run(
        [sys.executable, "-m", "sparsemm", "status", "results/run"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "1 of 2 jobs are finished" in look.stdout
    assert "job tiny.tiny_ocr was killed" in look.stdout

    process = start(tmp_path, slurm, *SLURM, "hydra.launcher.tasks_per_node=2")
    wait_until(lambda: len(stored(tmp_path, "tiny_ocr")) >= len(kept) + 2, process, tmp_path)
    again = job(tmp_path, "tiny_ocr")["scheduled"]
    assert "_" not in again  # the other job is done: this is no array
    subprocess.run(["scancel", "--signal=USR2", again], env=slurm, check=True)  # as before preemption
    assert ended(process, tmp_path) == 0, said(tmp_path)
    assert_same(tmp_path, expected)
    rows = stored(tmp_path, "tiny_ocr")
    assert len(rows) == len(set(rows)) == 2 * DOCUMENTS  # nothing was computed twice
    files = len([*(tmp_path / "results/run/responses/tiny.tiny_ocr").glob("*.sqlite")])
    assert files == 1 + 2 + 2  # cancelled; two processes, preempted; two that ended


def assert_shared(folder: Path) -> None:
    """Both processes answered every second document, in a file of its own."""
    shares = []
    for path in (folder / "results/run/responses/tiny.tiny_docvqa").glob("*.sqlite"):
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT DISTINCT doc_id FROM response ORDER BY doc_id").fetchall()
            shares.append([doc_id for (doc_id,) in rows])
    assert sorted(shares) == [[*range(0, DOCUMENTS, 2)], [*range(1, DOCUMENTS, 2)]]


@needs("local")
@pytest.mark.slow
def test_local_job_killed(caches: dict[str, str], expected: Path, tmp_path: Path) -> None:
    process = start(tmp_path, caches, "hydra/launcher=local", "hydra.launcher.tasks_per_node=2")
    wait_until(lambda: len(stored(tmp_path, "tiny_ocr")) >= 4, process, tmp_path)
    os.kill(job(tmp_path, "tiny_ocr")["pid"], signal.SIGKILL)
    assert ended(process, tmp_path) == 1
    assert "failed: tiny.tiny_ocr: " in said(tmp_path)
    assert "1 of 2 jobs failed; the same command runs only those again" in said(tmp_path)
    assert job(tmp_path, "tiny_docvqa")["state"] == "finished"
    kept, first = stored(tmp_path, "tiny_ocr"), job(tmp_path, "tiny_docvqa")
    assert 4 <= len(kept) < 2 * DOCUMENTS
    process = start(tmp_path, caches, "hydra/launcher=local", "hydra.launcher.tasks_per_node=2")
    assert ended(process, tmp_path) == 0, said(tmp_path)
    assert job(tmp_path, "tiny_docvqa") == first  # it did not run again
    assert_same(tmp_path, expected)
    assert_shared(tmp_path)
    rows = stored(tmp_path, "tiny_ocr")
    assert len(rows) == len(set(rows)) == 2 * DOCUMENTS


@needs("ray")
@pytest.mark.slow
def test_ray(caches: dict[str, str], expected: Path, tmp_path: Path) -> None:
    process = start(tmp_path, caches, *RAY)
    wait_until(lambda: len(stored(tmp_path, "tiny_ocr")) >= 4, process, tmp_path)
    killed = job(tmp_path, "tiny_ocr")["pid"]
    os.kill(killed, signal.SIGKILL)
    assert ended(process, tmp_path) == 0, said(tmp_path)
    assert job(tmp_path, "tiny_ocr")["pid"] != killed  # Ray ran it again
    assert_same(tmp_path, expected)
    rows = stored(tmp_path, "tiny_ocr")
    assert len(rows) == len(set(rows)) == 2 * DOCUMENTS


@needs("joblib")
@pytest.mark.slow
def test_joblib(caches: dict[str, str], expected: Path, tmp_path: Path) -> None:
    process = start(tmp_path, caches, "hydra/launcher=joblib")
    assert ended(process, tmp_path) == 0, said(tmp_path)
    assert_same(tmp_path, expected)


def test_a_launcher_without_multirun_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sweep", "hydra/launcher=slurm"]) == 2
    assert "add -m" in capsys.readouterr().err
