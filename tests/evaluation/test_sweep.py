"""A sweep end to end: real model, real pages, lmms-eval's task code, through the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sparsemm import cli
from sparsemm.evaluation.results import read_cells
from sparsemm.evaluation.tables import CELL_COLUMNS, SAMPLE_COLUMNS, load_results

FULL = 4096  # a budget above every prompt
GRID = ["task=[tiny_docvqa,tiny_ocr]", f"budget=[16,{FULL}]", "limit=4", "batch_size=3", "max_new_tokens=16"]
TIMES = ["prefill_s", "decode_s_per_token"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Path:
    """A folder in which one sweep has run: two methods, two budgets, two tasks."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["sweep", f"model.pretrained={untrained}", "method=[fullkv,snapkv]", *GRID]) == 0
    return folder


def sweep(folder: Path, untrained: Path, *overrides: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["sweep", *overrides[:1], f"model.pretrained={untrained}", *overrides[1:]]) == 0


def loaded(folder: Path) -> Any:
    return load_results(folder / "results/sweep")


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "results/sweep/cells").iterdir()}


def test_files_and_columns(swept):
    results = swept / "results/sweep"
    assert sorted(path.name for path in results.iterdir()) == [
        "cells",
        "cells.csv",
        "run.json",
        "samples.parquet",
    ]
    assert sorted(path.name for path in swept.iterdir()) == ["results"]
    table = loaded(swept)
    assert list(table.columns) == list(CELL_COLUMNS)
    assert list(zip(table["task"], table["method"], table["budget"].fillna(-1), strict=True)) == [
        (task, *cell)
        for task in ("tiny_docvqa", "tiny_ocr")
        for cell in (("fullkv", -1), ("snapkv", 16), ("snapkv", FULL))
    ]
    assert (table["n"] == 4).all()
    assert set(table["metric"]) == {"anls", "ocrbench_accuracy"}
    assert table["score"].between(0, 1).all()
    needed = ["realised_budget", "kv_bytes", "full_kv_bytes", *TIMES, "device", "dtype", "schema_version"]
    assert table[needed].notna().all(axis=None)
    assert json.loads((results / "run.json").read_text())["config"]["limit"] == 4


def test_what_was_measured_is_what_happened(swept):
    table = loaded(swept).set_index(["task", "method", "budget"])
    for task in ("tiny_docvqa", "tiny_ocr"):
        small, large = table.loc[(task, "snapkv", 16)], table.loc[(task, "snapkv", FULL)]
        assert small["realised_budget"] == 16
        assert small["n_uncompressed"] == 0
        assert small["kv_bytes"] < large["kv_bytes"]
        assert small["agreement_full"] < 1  # the model answers differently for what it no longer sees
        assert large["n_uncompressed"] == 4
        assert large["realised_budget"] > 96
        assert large["agreement_full"] == 1
        assert large["diff_full"] == 0


def test_samples(swept):
    samples: Any = pd.read_parquet(swept / "results/sweep/samples.parquet")
    assert list(samples.columns) == list(SAMPLE_COLUMNS)
    assert len(samples) == 6 * 4
    assert samples["doc_id"].tolist() == [0, 1, 2, 3] * 6
    assert samples["prompt_tokens"].between(97, 110).all()
    assert (samples["new_tokens"] <= 16).all()
    compressed = samples["budget"] == 16
    assert (samples.loc[compressed, "evicted_tokens"] > 0).all()
    assert (samples.loc[~compressed, "evicted_tokens"] == 0).all()
    table = loaded(swept)
    means = samples.groupby(["task", "cell"], sort=False)["score"].mean()
    assert means.tolist() == pytest.approx(table["score"].tolist())


def test_finished_cells_are_skipped_and_new_ones_added(swept, untrained, tmp_path, capsys):
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    swept = tmp_path
    before = stamps(swept)
    sweep(swept, untrained, "method=[fullkv,snapkv]", *GRID)
    assert stamps(swept) == before
    assert "6 of 6 cells are finished already" in capsys.readouterr().err
    sweep(swept, untrained, "method=[fullkv,adakv]", "task=[tiny_ocr]", "budget=[16,32]", *GRID[2:])
    after = stamps(swept)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 2  # FullKV is the same cell at any budget
    added = [
        cell["row"] for cell in read_cells(swept / "results/sweep") if f"{cell['id']}.json" not in before
    ]
    assert sorted((row["method"], row["budget"]) for row in added) == [("adakv", 16), ("adakv", 32)]
    assert "1 of 3 cells are finished already" in capsys.readouterr().err
    assert len(loaded(swept)) == 8


def test_multirun_gives_the_same_table(swept, untrained, tmp_path, capsys):
    sweep(tmp_path, untrained, "-m", "method=snapkv,fullkv", f"budget=16,{FULL}", GRID[0], *GRID[2:])
    ours, theirs = (loaded(folder).drop(columns=TIMES) for folder in (tmp_path, swept))
    pd.testing.assert_frame_equal(ours, theirs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]
    assert capsys.readouterr().out.count("documents") == 2  # one table a task, after all jobs
