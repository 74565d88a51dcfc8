"""docs/adding-a-task.md, done as it says: another benchmark by one entry and one configuration."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

import sparsemm
from sparsemm import cli
from sparsemm.evaluation import official
from tests.evaluation.official_documents import write

PAGE = (Path(sparsemm.__file__).parents[1] / "docs/adding-a-task.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return found


def test_the_page_adds_a_task(tmp_path: Path, untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = eval("{" + block("python") + "}", {"Benchmark": official.Benchmark})
    monkeypatch.setattr(official, "BENCHMARKS", {**official.BENCHMARKS, **entry})
    monkeypatch.setattr("sparsemm.evaluation.requests.BENCHMARKS", official.BENCHMARKS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task").mkdir()
    (tmp_path / "task/infovqa_val.yaml").write_text(block("yaml"), encoding="utf-8")
    write("docvqa_val", tmp_path / "data.parquet")  # the columns are the same
    program, *arguments = shlex.split(block(""))
    assert program == "sparsemm"
    # The tree is the package's own: a folder of the user's adds the configuration to it here.
    assert cli.main([*arguments, "--config-dir", ".", f"model.pretrained={untrained}"]) == 0
    cells = pd.read_csv(tmp_path / "results/sweep/cells.csv")
    assert set(cells["task"]) == {"infovqa_val"}
    assert set(cells["metric"]) == {"anls"}
    assert cells["n"].tolist() == [2, 2]
