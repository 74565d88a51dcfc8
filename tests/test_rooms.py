"""Imports run one way through the rooms, and the lower rooms need only what a bare GPU machine has."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import sparsemm

ROOT = Path(sparsemm.__file__).parent
ORDER = (
    *("cli", "report", "figures", "evaluation", "efficiency", "heads"),
    *("tiny", "models", "documents", "cache", "methods"),
)
"""From the top down; a room imports from those below it."""

BARE = {"torch", "transformers", "tokenizers", "numpy", "PIL", "sparsemm"}


def imports(path: Path, *, nested: bool) -> Iterator[str]:
    """Modules that a file imports; at its top level only, or anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def files(room: str) -> list[Path]:
    """The Python files of a room, inner folders included."""
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_from_rooms_below(room: str) -> None:
    above = set(ORDER[: ORDER.index(room)])
    assert files(room)
    for path in files(room):
        for name in imports(path, nested=True):
            parts = name.split(".")
            assert not (parts[0] == "sparsemm" and len(parts) > 1 and parts[1] in above), f"{path}: {name}"


@pytest.mark.parametrize(
    ("room", "more"),
    [
        ("methods", set()),
        ("cache", set()),
        ("documents", set()),
        ("models", {"safetensors"}),
        ("tiny", {"tqdm", "yaml"}),
        ("efficiency", {"yaml"}),
    ],
)
def test_lower_rooms_need_little(room: str, more: set[str]) -> None:
    import sys

    allowed = ({"torch", "numpy", "sparsemm"} if room == "methods" else BARE) | more
    for path in files(room):
        # The one file of GPU kernels is imported where they are launched, and only then.
        kernels = {"triton"} if path.name == "triton_kernels.py" else set()
        for name in imports(path, nested=False):
            assert not name.endswith("triton_kernels"), f"{path}: {name}"
            top = name.split(".")[0]
            assert top in allowed | kernels or top in sys.stdlib_module_names, f"{path}: {name}"


def test_the_engine_touches_transformers_in_one_file() -> None:
    users = {
        path.name
        for path in files("cache")
        for name in imports(path, nested=True)
        if name.split(".")[0] == "transformers"
    }
    assert users == {"stock.py"}


def test_hydra_appears_only_in_the_command_line() -> None:
    users = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for name in imports(path, nested=True)
        if name.split(".")[0] in ("hydra", "omegaconf")
    }
    assert users == {"cli/running.py", "cli/multirun.py", "cli/resolving.py"}
