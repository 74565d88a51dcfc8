"""The results folder: derived tables, whatever the order in which cells finished."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparsemm.evaluation.agreement import prefix_share
from sparsemm.evaluation.results import derive_tables, read_cells, write_cell, write_run
from sparsemm.evaluation.tables import SAMPLE_COLUMNS, SCHEMA_VERSION, load_results
from sparsemm.recording import write_atomically


def put(
    folder: Path, cell_id: str, method: str, budget, responses: list[str], score: float, group="g", task="t",
    **columns: list[Any],
) -> None:  # fmt: skip
    row = {"model": "m", "task": task, "metric": "x", "method": method, "budget": budget, "score": score}
    row |= {"n": len(responses), "schema_version": SCHEMA_VERSION}
    samples = {"doc_id": [*range(len(responses))], "response": responses, "score": [score] * len(responses)}
    write_cell(folder, cell_id, group, row, {**samples, **columns})


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


def test_tables_do_not_depend_on_the_order(tmp_path):
    fill(tmp_path / "one", [0, 1, 2, 3])
    fill(tmp_path / "two", [3, 2, 1, 0])
    for name in ("cells.csv", "samples.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    table: Any = load_results(tmp_path / "one")
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


def test_tables_do_not_depend_on_when_cells_finished(tmp_path):
    fill(tmp_path, [0, 1, 2, 3])
    before = [(tmp_path / name).read_bytes() for name in ("cells.csv", "samples.parquet")]
    for number, path in enumerate(sorted((tmp_path / "cells").iterdir())):
        cell = json.loads(path.read_text())
        path.write_text(json.dumps(cell | {"finished": f"200{9 - number}-01-01T00:00:00+00:00"}, indent=3))
    derive_tables(tmp_path)
    assert [(tmp_path / name).read_bytes() for name in ("cells.csv", "samples.parquet")] == before


@pytest.mark.parametrize(
    ("ours", "full", "share"),
    [
        ([5, 6, 7, 1], [5, 6, 7, 1], 1.0),
        ([5, 6, 1], [5, 6, 7, 1], 0.5),
        ([5, 6, 7, 8, 1], [5, 6, 7, 1], 0.75),  # the end token is one of FullKV's tokens
        ([8, 6, 7, 1], [5, 6, 7, 1], 0.0),  # equal again after a difference does not count
        ([], [5, 1], 0.0),
        ([], [], 1.0),
        ([5, 1], [], 0.0),
    ],
)
def test_prefix_share(ours, full, share):
    assert prefix_share(ours, full) == share


def test_agreement_failures_and_older_files(tmp_path):
    """Files without tokens, images and errors (older ones) leave the columns that need them empty."""
    put(tmp_path, "a", "fullkv", None, ["1", "2"], 1.0, tokens=[[7, 8, 9, 1], [3, 1]], error=[None, None])
    put(tmp_path, "b", "snapkv", 16, ["1", ""], 0.5, tokens=[[7, 8, 1], []], error=[None, "no image"])
    put(tmp_path, "c", "snapkv", 8, ["1", "x"], 0.5)
    derive_tables(tmp_path)
    table: Any = load_results(tmp_path).set_index(["method", "budget"])
    assert table["agreement_full"].tolist() == [1.0, 0.5, 0.5]
    assert table["agreement_prefix"].fillna(-1).tolist() == [1.0, -1, 0.25]
    assert table["n_failed"].fillna(-1).tolist() == [0, -1, 1]
    samples: Any = pd.read_parquet(tmp_path / "samples.parquet").set_index("cell")
    assert samples.loc["b", "agreement_full"].tolist() == [True, False]
    assert samples.loc["b", "agreement_prefix"].tolist() == [0.5, 0.0]
    assert samples.loc["b", "error"].fillna("").tolist() == ["", "no image"]
    assert samples.loc["c", ["agreement_prefix", "image", "error"]].isna().all(axis=None)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[1, 2]",
        lambda text: text.replace('"row"', '"rows"'),
        lambda text: text.replace('"score": 0.5', '"points": 0.5'),
        lambda text: text.replace('"score": 0.5', '"score": "high"'),
        lambda text: text.replace('"response": [', '"response": ["more", '),
        lambda text: text.replace('"doc_id": [0', '"doc_id": [9'),
        lambda text: text.replace('"n": 4', '"n": "four"'),
        lambda text: text.replace('"model": "m"', '"model": null'),
        lambda text: text.replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'),
    ],
)
def test_a_corrupt_cell_file_is_named_in_one_line_and_no_table_is_touched(tmp_path, damage):
    fill(tmp_path, [0, 1])
    tables = [(tmp_path / name).read_bytes() for name in ("cells.csv", "samples.parquet")]
    file = tmp_path / "cells" / "b.json"
    broken = damage(file.read_text())
    assert broken != file.read_text()
    file.write_text(broken)
    with pytest.raises(ValueError, match=re.escape(str(file))) as error:
        derive_tables(tmp_path)
    assert "\n" not in str(error.value)
    assert [(tmp_path / name).read_bytes() for name in ("cells.csv", "samples.parquet")] == tables


def test_every_cell_of_a_grid_has_intervals(tmp_path):
    """82 cells of 200 documents each, with their tokens and images."""
    rng = np.random.default_rng(0)
    for number in range(82):
        scores = (rng.random(200) < 0.7).astype(float).tolist()
        row = {"model": "m", "task": f"t{number % 2}", "method": "snapkv", "budget": number, "metric": "x"}
        row |= {"method": "fullkv", "budget": None} if number < 2 else {}
        samples = {"doc_id": [*range(200)], "response": ["text"] * 200, "score": scores}
        samples |= {
            "tokens": rng.integers(0, 9, (200, 50)).tolist(),
            "image": [str(i // 2) for i in range(200)],
        }
        write_cell(tmp_path, f"{number}", f"g{number % 2}", row | {"score": sum(scores) / 200}, samples)
    table = derive_tables(tmp_path)
    assert table[["ci_low", "diff_ci_high"]].notna().all(axis=None)


def test_run_says_what_made_it(tmp_path):
    write_run(tmp_path, {"budget": [16], "model": {"name": "tiny"}})
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["config"] == {"budget": [16], "model": {"name": "tiny"}}
    assert run["versions"]["torch"].startswith("2.")
    assert set(run) == {"config", "versions", "git_commit", "schema_version"}
