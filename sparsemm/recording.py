"""Recording results: files that are whole and durable once they are seen, and what they were made with."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import socket
import stat
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sparsemm.configs import PACKAGE

LEFT = re.compile(
    r"\..+\.(?:csv|html|json|parquet|pdf|png|safetensors|partial)"
    r"-(?:(?P<host>[^+]+)\+\d+\+[0-9a-f]{8}|[a-z0-9_]{6,12})"
)
"""Names of files that are being written to take another's place; older versions' do not say where."""

LEFT_S = 3600.0
"""Age at which what another machine left is taken for abandoned."""


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in place: readers never see half of it.

    It is on the disk when this returns, and what it replaces is there until then, also if the machine stops.

    Raises
    ------
    OSError
        It cannot be written; one line that names it.
    """
    try:
        make_folder(path.parent)
        clear_leftovers(path.parent, path.name)
        mark = f"{socket.gethostname()}+{os.getpid()}+{uuid.uuid4().hex[:8]}"
        beside = path.with_name(f".{path.name}-{mark}")
        handle = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            mode = stat.S_IMODE(os.fstat(handle).st_mode)  # as the umask makes it
            _is_mine(handle)
            write(beside)
            beside.chmod(mode)
            with beside.open("rb") as file:  # a name must not reach the disk ahead of its content
                os.fsync(file.fileno())
            beside.replace(path)
            _sync_folder(path.parent)
        finally:
            os.close(handle)
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def clear_leftovers(folder: Path, name: str = "*") -> None:
    """Remove what killed writers left in a folder beside the file `name`, or beside any.

    A writer that is alive holds the lock of what it writes. Locks need not hold from one machine to
    another: what other machines left is removed when it is an hour old.
    """
    for left in sorted(folder.glob(f".{name if name == '*' else glob.escape(name)}-*")):
        found = LEFT.fullmatch(left.name)
        with contextlib.suppress(OSError):  # another process was first, or it may not be removed
            if found is None or not left.is_file():
                continue
            here = found["host"] in (None, socket.gethostname())
            if here or time.time() - left.stat().st_mtime > LEFT_S:
                handle = os.open(left, os.O_RDONLY)
                try:
                    if _is_mine(handle):
                        left.unlink()
                finally:
                    os.close(handle)


def _is_mine(handle: int) -> bool:
    """Take the lock of an open file until it is closed; false if another has it, or the disk has no locks."""
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are not there; they are on the disk when this returns."""
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in new:
        _sync_folder(one.parent)


def _sync_folder(folder: Path) -> None:
    """Wait until a folder's names are on the disk; some network file systems have no such thing."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


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
