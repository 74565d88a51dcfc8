"""The GPU programme's pieces are commands that the benchmark takes; the page about it says what is so."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sparsemm
from sparsemm.efficiency.__main__ import configuration
from sparsemm.efficiency.decode_options import Options
from sparsemm.efficiency.decode_table import COLUMNS

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "efficiency_gpu.sh"
PAGE = (ROOT / "docs" / "efficiency.md").read_text(encoding="utf-8")
PIECES = re.findall(r'^  "(.+)"$', SCRIPT.read_text(encoding="utf-8"), re.MULTILINE)
CUT = (
    *("shapes=[small]", "layers=1", "lengths=[96]", "batch_sizes=[1]", "budgets=[40]", "methods=[snapkv]"),
    *("new_tokens=3", "rounds=1", "warm_up=1", "compile=false", "backend=grouped", "device=cpu"),
)


def programme(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(Path(sparsemm.__file__).parents[1]),
    }
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, env=environment)


def options(words: str) -> Options:
    config = configuration(["decode", *words.split()])
    return Options(**{name: config[name] for name in Options.__dataclass_fields__})


@pytest.mark.parametrize("piece", PIECES)
def test_a_pieces_options_are_right(piece):
    assert options(piece).new_tokens >= 64


def test_the_pages_commands_are_right():
    commands = re.findall(r"^python -m sparsemm\.efficiency decode (.+)$", PAGE, re.MULTILINE)
    assert len(commands) == 4
    assert all(options(command).new_tokens >= 64 for command in commands)


def test_a_piece_runs_and_the_next_time_has_nothing_to_do(tmp_path):
    first = programme("2", *CUT, f"output={tmp_path}")
    assert first.returncode == 0, first.stderr
    assert first.stderr.startswith(f"piece 2 of {len(PIECES)}: {PIECES[1]}\n")
    with (tmp_path / "decode.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    again = programme("2", *CUT, f"output={tmp_path}")
    assert (again.returncode, again.stdout) == (0, f"{tmp_path / 'decode.csv'}\n")
    assert len(again.stderr.splitlines()) == 1


def test_wrong_pieces_and_options_end_it():
    ended = programme("0")
    assert (ended.returncode, ended.stderr) == (2, f"PIECE must be from 1 to {len(PIECES)}, got 0\n")
    ended = programme("lenghts=[96]")
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 2
    assert "did you mean lengths" in ended.stderr


def test_the_page_explains_every_column():
    table = PAGE[PAGE.index("| column | meaning |") :].split("\n\n")[0].splitlines()[2:]
    assert table == [f"| `{name}` | {meaning} |" for name, meaning in COLUMNS.items()]


def test_the_page_counts_the_pieces():
    assert len(PIECES) == 13
    assert "in thirteen pieces" in PAGE
