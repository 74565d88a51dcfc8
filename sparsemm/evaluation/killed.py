"""The step in which a process was killed: all that a kill for lack of memory leaves to learn from."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".step"


class StepFile:
    """A file beside a store file that says which step its writer is in. A context manager.

    The writer holds the file's lock, which the kernel releases when the process ends, however it ends; a
    writer that ends by itself removes the file.

    Parameters
    ----------
    store_file : Path
        ``responses/0.sqlite``: the step is said in ``responses/0.step``.
    """

    def __init__(self, store_file: Path) -> None:
        self.path = store_file.with_suffix(SUFFIX)
        try:
            self._handle = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
        except OSError as error:  # a link or a folder of this name
            raise OSError(f"cannot write {self.path}: {error.strerror}; move it away") from error
        with contextlib.suppress(OSError):  # a disk without locks: a kill teaches nothing there
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(self._handle, 0)

    @contextmanager
    def holding(self, documents: int, rows: int) -> Iterator[None]:
        """Say that a step of so many documents and rows is in progress, for as long as the context lasts."""
        with contextlib.suppress(OSError):  # the disk is full: the store says so
            os.pwrite(self._handle, f"{documents} {rows}\n".encode(), 0)
        try:
            yield
        finally:
            os.ftruncate(self._handle, 0)

    def __enter__(self) -> StepFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._handle)


def take_killed(folder: Path) -> list[tuple[int, int]]:
    """Documents and rows of the steps in which writers of a folder's store files were killed.

    The files that said so are removed.
    """
    killed: list[tuple[int, int]] = []
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with contextlib.suppress(OSError, ValueError):  # its writer is alive, or it says nothing
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                documents, rows = map(int, os.read(handle, 64).split())
                killed.append((documents, rows))
            finally:
                os.close(handle)
    return killed
