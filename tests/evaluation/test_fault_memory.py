"""Memory that a container or a limit gives, not what the machine has."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparsemm import cli
from sparsemm.evaluation import answers
from sparsemm.evaluation.killed import StepFile, take_killed
from sparsemm.evaluation.memory import _left_in_containers
from tests.evaluation.provoking import contents, sweep

GROUPS = {
    "version 2": ("0::/a/b", "", ("memory.max", "memory.current", "inactive_file")),
    "version 1": (
        "4:memory:/a/b",
        "memory",
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ),
}


@pytest.mark.parametrize("place", ["a/b", "a", ""], ids=["its own", "an outer one", "a container's top"])
@pytest.mark.parametrize("version", GROUPS)
def test_limits_of_control_groups(version: str, place: str, tmp_path: Path) -> None:
    membership, controller, (limit, used, files) = GROUPS[version]
    folder = tmp_path / controller / place
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit).write_text("600000000\n")
    (folder / used).write_text("500000000\n")
    (folder / "memory.stat").write_text(f"cache 9\n{files} 50000000\n")
    assert _left_in_containers(tmp_path, membership) == [150_000_000]
    (folder / limit).write_text("max\n" if version == "version 2" else f"{2**63 - 4096}\n")
    assert all(left > 2**60 for left in _left_in_containers(tmp_path, membership))


def test_a_limit_of_addresses() -> None:
    code = (
        "import resource, psutil, torch; from sparsemm.evaluation.memory import free_memory; "
        "limit = psutil.Process().memory_info().vms + 10**8; "
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); "
        "print(free_memory(torch.device('cpu')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 <= int(shown.stdout) <= 10**8


KILLED = """
import os, signal, sys
from sparsemm import cli
from sparsemm.evaluation import answers
fan_out = answers.fan_out

def killed(*args, **options):
    if os.path.exists("answered"):
        os.kill(os.getpid(), signal.SIGKILL)
    open("answered", "w").close()
    return fan_out(*args, **options)

answers.fan_out = killed
cli.main(sys.argv[1:])
"""


def test_after_a_kill_steps_are_smaller_until_they_fit(
    tmp_path: Path, untrained: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills without a word; the next run takes half, keeps what was answered, and ends alike."""
    monkeypatch.chdir(tmp_path)
    grid = sweep(untrained, "limit=8", "batch_size=4", "budget=[9,12]")
    assert cli.main([*grid, "output=results/plain"]) == 0
    code = subprocess.run([sys.executable, "-c", KILLED, *grid], capture_output=True).returncode
    assert code == -9
    [left] = Path("results/sweep/responses").glob("*.step")
    assert left.read_text() == "4 12\n"
    capfd.readouterr()
    held: list[tuple[int, int]] = []
    fan_out = answers.fan_out

    def noted(model, inputs, methods, **options):
        held.append((len(inputs["input_ids"]), options["max_rows"]))
        return fan_out(model, inputs, methods, **options)

    monkeypatch.setattr(answers, "fan_out", noted)
    assert cli.main(grid) == 0
    shown = capfd.readouterr().err
    assert "an earlier run was killed in a step of 4 documents, 12 rows: from now on 2 documents" in shown
    assert held == [(2, 6), (2, 6)], "the first four documents were answered before the kill"
    assert list(Path("results/sweep/responses").glob("*.step")) == []
    assert [contents(Path(f"results/{name}"))["samples.parquet"] for name in ("plain", "sweep")] == [
        (tmp_path / "results/plain/samples.parquet").read_bytes()
    ] * 2
    capfd.readouterr()
    assert cli.main([*grid, "limit=12"]) == 0
    assert "killed" not in capfd.readouterr().err


def test_a_writer_that_is_alive_was_not_killed(tmp_path: Path) -> None:
    with StepFile(tmp_path / "0.sqlite") as alive, alive.holding(8, 96):
        assert alive.path.read_text() == "8 96\n"
        assert take_killed(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    for name, text in {"a": "", "b": "x y\n", "c": "1\n"}.items():
        (tmp_path / f"{name}.step").write_text(text)
    (tmp_path / "d.step").symlink_to("/etc/hostname")
    with pytest.raises(OSError, match=r"cannot write .*d\.step: .*; move it away"):
        StepFile(tmp_path / "d.sqlite")
    (tmp_path / "e.step").write_text("3 9\n")
    assert take_killed(tmp_path) == [(3, 9)]
    assert [path.name for path in tmp_path.iterdir()] == ["d.step"]
