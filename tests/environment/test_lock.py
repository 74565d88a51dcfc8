"""The lock serves every interpreter that is promised, holds all that pyproject.toml names, and no address."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
PYTHONS = [one.split()[-1] for one in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", one)]


def requirements(lines: list[str]) -> list[Requirement]:
    """What the lines name, comments and empty ones left out."""
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def read(path: str) -> list[Requirement]:
    return requirements((ROOT / path).read_text(encoding="utf-8").splitlines())


def named() -> list[Requirement]:
    """All dependencies, those of the extras and of the build too, and the pins."""
    extras = [one for extra in PROJECT["optional-dependencies"].values() for one in extra]
    lines = [*PROJECT["dependencies"], *extras, *SETTINGS["build-system"]["requires"]]
    return requirements(lines) + read("tests/environment/pins.txt")


def test_every_line_is_one_exact_version_from_any_index() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        assert re.fullmatch(r"#.*|[a-z0-9-]+==[\w.]+( ; .*)?", line), line
        assert "://" not in line, line
    assert len(lines) > 200


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_holds_a_version_of_every_dependency(python: str, system: str) -> None:
    """One, and one that the dependency's range allows; else ``make lock`` was forgotten."""
    platform = {"linux": "Linux", "darwin": "Darwin"}[system]
    where = {"python_version": python, "python_full_version": f"{python}.0"}
    where |= {"sys_platform": system, "platform_system": platform, "platform_machine": "x86_64"}

    def wanted(requirement: Requirement) -> bool:
        return requirement.marker is None or requirement.marker.evaluate(where)

    locked: dict[str, str] = {}
    for requirement in filter(wanted, read("constraints.txt")):
        (exact,) = requirement.specifier
        assert locked.setdefault(requirement.name, exact.version) == exact.version
    for requirement in filter(wanted, named()):
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}, locked {version}"


def test_the_workflow_tries_every_promised_interpreter() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    assert PYTHONS == workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] != []
