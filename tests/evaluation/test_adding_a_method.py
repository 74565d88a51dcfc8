"""docs/adding-a-method.md, done as it says: a new method by one file and one configuration."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from sparsemm import cli, load_results
from sparsemm.figures import accuracy_vs_budget
from tests.families import FAMILIES, TWO
from tests.pages import ROOT, blocks

PAGE = ROOT / "docs/adding-a-method.md"
[METHOD], [CONFIG] = blocks(PAGE, "python"), blocks(PAGE, "yaml")
IN_PACKAGE, [DOCTOR, OWN] = (block.splitlines() for block in blocks(PAGE, "bash"))


def run(command: str, folder: Path) -> str:
    """What a command of the page says, run in a copy of the project."""
    program, *arguments = shlex.split(command)
    if program == "sparsemm":
        arguments = ["-m", "sparsemm", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the page's two files in it, and nothing else changed."""
    folder = tmp_path_factory.mktemp("clone")
    leave = shutil.ignore_patterns("__pycache__")
    for part in ("sparsemm", "eval_configs", "tests", "results/head_scores"):
        shutil.copytree(ROOT / part, folder / part, ignore=leave)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "sparsemm/methods/keydiff.py").write_text(METHOD, encoding="utf-8")
    (folder / "eval_configs/method/keydiff.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_matrix_takes_it_in(clone: Path) -> None:
    tests, *_ = IN_PACKAGE
    assert tests == "python -m pytest tests/methods tests/test_configs.py tests/cache -k keydiff"
    assert "keydiff" in run("sparsemm list methods", clone)
    # The two families that meet every method everywhere stand for all here: thirteen take minutes.
    left_out = " or ".join(name for name in FAMILIES if not any(name in kept for kept in TWO))
    said = run(
        tests.replace("-k keydiff", f"-q -p no:cacheprovider -k 'keydiff and not ({left_out})'"), clone
    )
    assert int(re.findall(r"(\d+) passed", said)[0]) > 50
    assert "failed" not in said


@pytest.mark.slow
def test_the_sweep_the_figures_and_the_report_take_it_in(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, sweep, *pages = IN_PACKAGE
    run(sweep.replace("limit=32", "limit=2"), clone)
    cells = pd.read_csv(clone / "results/keydiff/cells.csv")
    ours = cells[cells["method"] == "keydiff"]
    assert ours["budget"].tolist() == ours["realised_budget"].tolist() == [24, 48]
    assert (ours["n"] == 2).all()
    monkeypatch.chdir(clone)
    for command in pages:
        assert cli.main(shlex.split(command)[1:]) == 0
    written = capsys.readouterr().out.split()
    assert {"results/keydiff/figures/accuracy_vs_budget.png", "results/keydiff/report.html"} <= set(written)
    assert "keydiff" in Path("results/keydiff/report.html").read_text(encoding="utf-8")
    [legend] = accuracy_vs_budget(load_results(clone / "results/keydiff")).legends
    assert [text.get_text() for text in legend.get_texts()] == ["FullKV", "SnapKV", "keydiff"]


def test_it_works_from_a_folder_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "keydiff.py").write_text(METHOD, encoding="utf-8")
    config = CONFIG.replace("sparsemm.methods.keydiff.KeyDiff", "keydiff.KeyDiff")
    (tmp_path / "method/keydiff.yaml").write_text(config, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for command in (DOCTOR, OWN):
        path, program, *arguments = shlex.split(command, comments=True)
        assert (path, program) == ("PYTHONPATH=.", "sparsemm")
        assert cli.main(arguments) == 0
    cells = pd.read_csv(tmp_path / "results/sweep/cells.csv").set_index("method")
    assert cells.loc["keydiff", "realised_budget"] == 24
    assert cli.main([*arguments, "+methods.keydiff.window=4", "plan=true"]) == 0


def test_a_module_that_python_does_not_find_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "method").mkdir()
    config = CONFIG.replace("sparsemm.methods.keydiff", "nowhere")
    (tmp_path / "method/keydiff.yaml").write_text(config, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["sweep", "--config-dir", ".", "method=[keydiff]", "plan=true"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "'nowhere.KeyDiff' cannot be imported: No module named 'nowhere'" in said
    assert "PYTHONPATH" in said
