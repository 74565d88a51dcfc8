"""Memory that a container or a limit gives, not what the machine has."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparsemm.evaluation.memory import _left_in_containers

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
