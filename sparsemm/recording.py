"""Recording results: files that are never seen half-written, and what they were made with."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparsemm.configs import PACKAGE


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in place: readers never see half of it.

    Raises
    ------
    OSError
        It cannot be written; one line that names it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
        beside = Path(name)
        try:
            write(beside)
            beside.chmod(0o644)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON atomically, two levels of keys a line each: lists of samples stay on one line."""
    lines = []
    for key, entry in value.items():
        inner = (
            [f" {_json(name)}: {_json(item)}" for name, item in entry.items()]
            if isinstance(entry, dict)
            else []
        )
        lines.append(f"{_json(key)}: " + ("{\n" + ",\n".join(inner) + "\n}" if inner else _json(entry)))
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def versions(libraries: Iterable[str]) -> dict[str, str | None]:
    """Installed versions; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def git_commit() -> str | None:
    """Commit of the clone that the package runs from, with ``+`` if files differ; None without a clone."""
    clone = PACKAGE.parent
    if not (clone / ".git").exists():
        return None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
        )
        state = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no", "--", "sparsemm", "eval_configs"],
            cwd=clone, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if state.stdout.strip() else "")
