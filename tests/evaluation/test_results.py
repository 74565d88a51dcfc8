"""The results folder: derived tables, whatever the order in which cells finished."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sparsemm.evaluation.results import derive_tables, read_cells, write_atomically, write_cell, write_run
from sparsemm.evaluation.tables import CELL_COLUMNS, SAMPLE_COLUMNS, SCHEMA_VERSION, load_results

# What other programs may rely on.
COLUMNS = [
    *("model", "task", "metric", "method", "budget", "window", "overflow", "rounding", "head_scores"),
    *("ablation", "fraction", "seed", "method_params", "score", "ci_low", "ci_high", "n"),
    *("diff_full", "diff_ci_low", "diff_ci_high", "agreement_full", "agreement_prefix"),
    *("realised_budget", "n_uncompressed", "kv_bytes", "full_kv_bytes", "prefill_s", "decode_s_per_token"),
    *("device", "dtype", "schema_version"),
]


def put(
    folder: Path, cell_id: str, method: str, budget, responses: list[str], score: float, group="g", task="t"
):
    row = {"model": "m", "task": task, "metric": "x", "method": method, "budget": budget, "score": score}
    row |= {"n": len(responses), "schema_version": SCHEMA_VERSION}
    samples = {"doc_id": [*range(len(responses))], "response": responses, "score": [score] * len(responses)}
    write_cell(folder, cell_id, group, row, samples)


def fill(folder: Path, order: list[int]) -> None:
    cells = [
        ("a", "fullkv", None, ["1", "2", "3", "4"], 1.0),
        ("b", "snapkv", 16, ["1", "x", "3", "y"], 0.5),
        ("c", "snapkv", 8, ["x", "x", "3", "y"], 0.25),
        ("d", "adakv", 0.5, ["1", "2", "3", "4"], 1.0),
    ]
    for index in order:
        put(folder, *cells[index])
        derive_tables(folder)


def test_columns_are_the_documented_ones():
    assert list(CELL_COLUMNS) == COLUMNS
    assert all(CELL_COLUMNS.values())
    assert all(SAMPLE_COLUMNS.values())


def test_tables_do_not_depend_on_the_order(tmp_path):
    fill(tmp_path / "one", [0, 1, 2, 3])
    fill(tmp_path / "two", [3, 2, 1, 0])
    for name in ("cells.csv", "samples.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    table: Any = load_results(tmp_path / "one")
    assert list(table.columns) == COLUMNS
    assert list(zip(table["method"], table["budget"].fillna(0), strict=True)) == [
        ("fullkv", 0),
        ("adakv", 0.5),
        ("snapkv", 8),
        ("snapkv", 16),
    ]
    pd.testing.assert_frame_equal(table, load_results(tmp_path / "one" / "cells.csv"))


def test_comparison_with_fullkv(tmp_path):
    fill(tmp_path, [1, 2])
    assert load_results(tmp_path)["diff_full"].isna().all()
    fill(tmp_path, [0, 3])
    table: Any = load_results(tmp_path).set_index(["method", "budget"])
    assert table.loc[("snapkv", 8), ["diff_full", "agreement_full"]].tolist() == [-0.75, 0.25]
    assert table.loc[("snapkv", 16), ["diff_full", "agreement_full"]].tolist() == [-0.5, 0.5]
    assert table.loc[("adakv", 0.5), ["diff_full", "agreement_full"]].tolist() == [0.0, 1.0]
    samples: Any = pd.read_parquet(tmp_path / "samples.parquet")
    assert list(samples.columns) == list(SAMPLE_COLUMNS)
    assert samples.groupby("cell")["response"].agg(list)["b"] == ["1", "x", "3", "y"]


def test_cells_of_another_model_or_limit_are_not_mixed_in(tmp_path):
    fill(tmp_path, [0, 1])
    put(tmp_path, "other", "fullkv", None, ["1"], 0.0, group="h")
    put(tmp_path, "task", "fullkv", None, ["1"], 0.0, group="i", task="another")
    wanted = {("m", "t"): "g"}
    assert derive_tables(tmp_path, wanted)["score"].tolist() == [0.0, 1.0, 0.5]
    assert derive_tables(tmp_path, {("m", "t"): "h"})["score"].tolist() == [0.0, 0.0]
    assert len(read_cells(tmp_path)) == 4


def test_a_failed_write_leaves_the_old_file(tmp_path):
    file = tmp_path / "table"
    write_atomically(file, lambda beside: beside.write_text("old"))

    def torn(beside: Path) -> None:
        beside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(file, torn)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_wrong_tables_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no results"):
        load_results(tmp_path)
    fill(tmp_path, [0])
    table = pd.read_csv(tmp_path / "cells.csv")
    table.drop(columns="score").to_csv(tmp_path / "cells.csv")
    with pytest.raises(ValueError, match="lacks the columns score"):
        load_results(tmp_path)
    table.assign(schema_version=SCHEMA_VERSION + 1).to_csv(tmp_path / "cells.csv")
    with pytest.raises(ValueError, match="newer"):
        load_results(tmp_path)


def test_run_says_what_made_it(tmp_path):
    write_run(tmp_path, {"budget": [16], "model": {"name": "tiny"}})
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["config"] == {"budget": [16], "model": {"name": "tiny"}}
    assert run["versions"]["torch"].startswith("2.")
    assert set(run) == {"config", "versions", "git_commit", "schema_version"}
