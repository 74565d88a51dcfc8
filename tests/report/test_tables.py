"""From result files to the page's data."""

import base64
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import sparsemm
from sparsemm.report.folder import read_results
from sparsemm.report.lines import line_names
from sparsemm.report.samples import explorer
from sparsemm.report.tables import cell_rows, comparison_rows, efficiency_rows, groups, mark, methods
from tests.report.conftest import DOCUMENTS, FULL_WRONG, HOSTILE_TASK, SNAP_WRONG, answers, put, question

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("difference", "low", "high", "expected"),
    [
        (0.1, 0.05, 0.2, "better"),
        (-0.1, -0.2, -0.05, "worse"),
        (0.1, -0.05, 0.2, "equal"),
        (0.0, 0.0, 0.0, "equal"),
        (0.1, 0.0, 0.2, "equal"),
        (0.1, None, None, ""),
        (None, None, None, ""),
    ],
)
def test_a_difference_is_marked_where_its_interval_excludes_zero(difference, low, high, expected):
    assert mark(difference, low, high) == expected


def test_rows_are_the_tables(results):
    read = read_results(results)
    rows = cell_rows(read.cells, read.ids)
    assert [group["name"] for group in groups(read.cells)] == sorted(["docvqa_val", HOSTILE_TASK])
    assert len(rows) == len(read.cells) == 13
    by_id = {row["id"]: row for row in rows}
    snap = by_id["snap160"]
    assert snap["score"] == pytest.approx((DOCUMENTS - len(SNAP_WRONG)) / DOCUMENTS, abs=1e-5)
    assert snap["diff"] == pytest.approx((len(FULL_WRONG) - len(SNAP_WRONG)) / DOCUMENTS, abs=1e-5)
    assert (snap["line"], snap["column"], snap["mark"]) == ("SnapKV", "16", "equal")
    assert (by_id["after"]["line"], by_id["after"]["mark"]) == ("SnapKV, question after", "worse")
    assert (by_id["full0"]["column"], by_id["full0"]["mark"]) == ("all", "")
    assert by_id["snap320"]["mark"] == "equal"
    assert [method["name"] for method in methods(read.cells)][:3] == ["fullkv", "snapkv", "sparsemm"]


def test_every_committed_cell_has_a_row_of_its_own():
    """Line, budget and seed tell all cells of a task apart, in the three experiments."""
    for name in ("tiny", "query_agnostic", "mask_ablation"):
        read = read_results(ROOT / "results" / name)
        rows = cell_rows(read.cells, read.ids)
        keys = {(row["group"], row["line"], row["column"], row["seed"]) for row in rows}
        assert len(keys) == len(rows) == len(read.cells)
        assert sorted(row["source"] for row in rows) == list(range(len(rows)))
        pairs = comparison_rows(read.comparisons, read.cells)
        assert read.comparisons is not None
        assert len(pairs) == len(read.comparisons)


def test_settings_that_differ_are_named():
    cells = sparsemm.load_results(ROOT / "results" / "tiny").iloc[:12].copy()
    assert "window" not in " ".join(line_names(cells))
    first = cells.index[cells["method"] == "adakv"][0]
    cells.loc[first, "window"] = 16
    cells.loc[first, "method_params"] = cells.loc[first, "method_params"].replace(
        '"kernel": 5', '"kernel": 7'
    )
    names = line_names(cells)
    assert "AdaKV, window 16.0, kernel 7" in names
    assert "AdaKV, window 8.0, kernel 5" in names


def test_samples_hold_every_answer_once(results):
    read = read_results(results)
    rows = cell_rows(read.cells, read.ids)
    found = explorer(read, groups(read.cells), rows)
    names = [group["name"] for group in groups(read.cells)]
    part = found.groups[names.index("docvqa_val")]
    assert part["documents"] == list(range(DOCUMENTS))
    assert part["questions"] == [question(at) for at in range(DOCUMENTS)]
    assert part["targets"][3][0] == "target 3"
    for index, text in part["given"].items():
        numbers = np.frombuffer(base64.b64decode(text), dtype="<u2")
        wrong = {"snap160": SNAP_WRONG, "full0": FULL_WRONG}.get(rows[int(index)]["id"])
        if wrong is not None:
            given = [part["answers"][at][number - 1] for at, number in enumerate(numbers)]
            assert [text for text, _ in given] == answers(wrong)
            assert [score for _, score in given] == [0 if at in wrong else 1 for at in range(DOCUMENTS)]
    for held in part["answers"]:
        assert len(held) == len({tuple(answer) for answer in held}) <= 2
    assert len(found.pictures["docvqa_val"]) == DOCUMENTS
    assert all(found.pictures["docvqa_val"])
    assert found.pictures[HOSTILE_TASK] == []
    assert found.notices == [
        f"no pictures and questions of {HOSTILE_TASK}: it is no task that this sparsemm knows"
    ]


def test_fewer_documents_are_the_first(results):
    read = read_results(results)
    rows = cell_rows(read.cells, read.ids)
    found = explorer(read, groups(read.cells), rows, documents=10)
    assert [part["documents"] for part in found.groups] == [[*range(5)]] * 2
    assert [part["total"] for part in found.groups] == [DOCUMENTS] * 2


def test_pictures_of_other_documents_are_not_shown(results, tmp_path):
    table = pd.read_parquet(
        Path(str(read_results(results).run["config"]["tasks"]["docvqa_val"]["data_files"]))
    )
    other = tmp_path / "shifted.parquet"
    table.iloc[[0, *range(2, len(table)), 1]].to_parquet(other)
    read = read_results(results)
    found = explorer(
        read, groups(read.cells), cell_rows(read.cells, read.ids), data={"docvqa_val": str(other)}
    )
    part = next(part for part in found.groups if part["pictured"][0])
    assert part["pictured"] == [1] + [0] * (DOCUMENTS - 1)
    assert part["questions"][1] is None
    assert any(
        f"{DOCUMENTS - 1} documents are not those that the sweep saw" in notice for notice in found.notices
    )


def test_cells_that_finished_later_are_counted(results):
    before = len(read_results(results).cells)
    tables = (results / "cells.csv").read_bytes()
    put(results, "later", "adakv", 16.0, {1})
    read = read_results(results)
    assert read.derived
    assert len(read.cells) == before + 1
    assert len(read.ids) == before + 1
    assert (results / "cells.csv").read_bytes() == tables


def test_samples_of_other_cells_are_left_out(results):
    table = pd.read_csv(results / "cells.csv")
    for cell in (results / "cells").glob("*.json"):
        cell.unlink()
    table.iloc[:-1].to_csv(results / "cells.csv", index=False)
    read = read_results(results)
    assert read.samples is None
    assert read.notices == ["samples.parquet is of other cells than cells.csv: the samples are left out"]


def test_efficiency_rows_are_the_files(tmp_path):
    rows = efficiency_rows(ROOT / "results" / "efficiency" / "decode.csv")
    assert efficiency_rows(ROOT / "results" / "efficiency") == rows
    assert len(rows) == len(pd.read_csv(ROOT / "results" / "efficiency" / "decode.csv"))
    wrong = tmp_path / "decode.csv"
    wrong.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="lacks the columns shape"):
        efficiency_rows(wrong)
