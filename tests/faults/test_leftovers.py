"""What a killed writer left is cleared by the next one; what another is just writing stays."""

import os
import time
from pathlib import Path

import pytest

from sparsemm.recording import LEFT_S, write_atomically


def kill_while_writing(target: Path) -> None:
    """Let a process end without a word in the middle of writing a file."""
    if (child := os.fork()) == 0:
        write_atomically(target, lambda beside: (beside.write_text("half"), os._exit(9)))
    os.waitpid(child, 0)


@pytest.mark.parametrize("name", ["cells.csv", "a-b.json", "[x].json"])
def test_the_next_writer_clears_what_a_killed_one_left(name, tmp_path):
    target = tmp_path / name
    kill_while_writing(target)
    kill_while_writing(target)
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / f".{name}-abcd1234").write_text("of an older version")
    (tmp_path / f".{name}-notes of mine").touch()
    write_atomically(target, lambda beside: beside.write_text("whole"))
    (tmp_path / f".{name}-notes of mine").unlink()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert target.read_text() == "whole"


def test_what_is_being_written_stays(tmp_path):
    target = tmp_path / "cells.csv"
    elsewhere = tmp_path / ".cells.csv-other-host+17+0123abcd"
    elsewhere.touch()

    def write(beside: Path) -> None:
        beside.write_text("slow")
        write_atomically(target, lambda second: second.write_text("fast"))
        assert target.read_text() == "fast"

    write_atomically(target, write)
    assert target.read_text() == "slow"
    assert {path.name for path in tmp_path.iterdir()} == {target.name, elsewhere.name}
    os.utime(elsewhere, (0, time.time() - 2 * LEFT_S))
    write_atomically(target, lambda beside: beside.write_text("later"))
    assert [path.name for path in tmp_path.iterdir()] == [target.name]
