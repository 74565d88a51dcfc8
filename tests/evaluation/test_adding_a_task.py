"""docs/adding-a-task.md, done as it says: another benchmark by one entry and one configuration."""

import shlex
from pathlib import Path

import pandas as pd
import pytest

from sparsemm import cli
from sparsemm.evaluation import official
from tests.evaluation.official_documents import write
from tests.pages import ROOT, blocks

PAGE = ROOT / "docs/adding-a-task.md"
[ENTRY], [CONFIG], [COMMAND] = (blocks(PAGE, language) for language in ("python", "yaml", ""))


def test_the_page_adds_a_task(tmp_path: Path, untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = eval("{" + ENTRY + "}", {"Benchmark": official.Benchmark})
    monkeypatch.setitem(official.BENCHMARKS, *entry.popitem())  # pyright: ignore[reportArgumentType]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task").mkdir()
    (tmp_path / "task/infovqa_val.yaml").write_text(CONFIG, encoding="utf-8")
    write("docvqa_val", tmp_path / "data.parquet")  # the columns are the same
    program, verb, *overrides = shlex.split(COMMAND)
    assert (program, verb) == ("sparsemm", "sweep")
    # The tree is the package's own: a folder of the user's adds the configuration to it here.
    assert (
        cli.main([verb, "--config-dir", ".", *overrides, f"model.pretrained={untrained}", "model.window=8"])
        == 0
    )
    cells = pd.read_csv(tmp_path / "results/sweep/cells.csv")
    assert set(cells["task"]) == {"infovqa_val"}
    assert set(cells["metric"]) == {"anls"}
    assert cells["n"].tolist() == [2, 2]
