"""Every row of `tests.faults.inputs`: one line, exit code 2, nothing left behind."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.evaluation.provoking import refused
from tests.faults import inputs
from tests.faults.inputs import Fault

SECONDS = 120
"""What waits longer, waits for ever."""


@pytest.fixture(autouse=True)
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with a file, a folder and a pipe; what hangs is ended."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("folder").mkdir()
    os.mkfifo("fifo")

    def end(*_: Any) -> NoReturn:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


ROWS = [*inputs.NUMBERS, *inputs.TAKEN_OUT, *inputs.KINDS, *inputs.PATHS, *inputs.FILES]


def arguments(command: str) -> list[str]:
    """The words of a command; options may hold blanks within braces."""
    return [word.replace("\0", " ") for word in command.replace(": ", ":\0").split()]


@pytest.mark.parametrize("fault", ROWS, ids=[fault.command[:80] for fault in ROWS])
def test_wrong_input(fault: Fault, capfd: pytest.CaptureFixture[str]) -> None:
    if fault.made is not None:
        fault.made()
    before = sorted(Path().rglob("*"))
    assert fault.says in refused(capfd, arguments(fault.command))
    assert sorted(Path().rglob("*")) == before
