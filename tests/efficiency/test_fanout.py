"""The fan-out benchmark, really run on two pages; that its options, table and record are as documented."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sparsemm import cli
from sparsemm.configs import InputError, names
from sparsemm.efficiency.__main__ import configuration
from sparsemm.efficiency.fanout_table import ALLOCATOR, COLUMNS
from sparsemm.efficiency.workloads import WORKLOADS
from sparsemm.evaluation import tasks
from tests.composing import composed

SMALL = (
    "documents=2",
    "budgets=[12,24,320]",
    "methods=[sparsemm]",
    "batch_sizes=[2]",
    "rounds=1",
    "separate=2",
)

# What other programs may rely on.
NAMES = [
    *("workload", "measured", "cells", "documents", "batch_size", "rounds", "seconds_min", "seconds_median"),
    *("prompt_tokens", "new_tokens", "rows_per_document", "ratio_to_generate", "ratio_to_own_loop"),
    *("times_cheaper_than_separate", "extrapolated_from", "differing_documents", "model", "dtype", "device"),
    *("threads", "schema_version"),
]
NUMBERS = [*NAMES[2:14], "differing_documents", "threads", "schema_version"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("efficiency")
    assert cli.main(["efficiency", "fanout", *SMALL, f"output={output}", "device=cpu"]) == 0
    return output


@pytest.fixture(scope="module")
def rows(folder) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "fanout.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == NAMES == list(COLUMNS)
        return {(row["workload"], row["measured"]): row for row in reader}


def test_every_workload_has_every_row(rows):
    measured = ("fanout", "generate", "own_loop", "separate")
    assert list(rows) == [(name, what) for name in ("lookup", "transcription") for what in measured]
    for (_, what), row in rows.items():
        assert all(float(row[name]) >= 0 for name in NUMBERS if row[name])
        assert all(row[name] for name in ("model", "dtype", "device"))
        assert row["cells"] == ("4" if what in ("fanout", "separate") else "1")
        assert (row["times_cheaper_than_separate"] != "") == (what == "fanout")
        assert (row["extrapolated_from"] != "") == (what == "separate")


def test_fanned_out_answers_are_those_of_every_other_way(rows):
    for (_, what), row in rows.items():
        assert row["differing_documents"] == ("" if what == "fanout" else "0")


def test_cells_that_keep_everything_share_a_row(rows):
    for name in WORKLOADS:
        assert float(rows[name, "fanout"]["rows_per_document"]) == 3  # at 320 SparseMM is FullKV
        assert float(rows[name, "generate"]["rows_per_document"]) == 1


def test_ratios_and_the_extrapolation_follow_from_the_seconds(rows):
    for name in WORKLOADS:
        seconds = {what: float(row["seconds_min"]) for (task, what), row in rows.items() if task == name}
        fanout = rows[name, "fanout"]
        assert float(fanout["ratio_to_generate"]) == pytest.approx(
            seconds["fanout"] / seconds["generate"], 0.01
        )
        cheaper = seconds["separate"] / seconds["fanout"]
        assert float(fanout["times_cheaper_than_separate"]) == pytest.approx(cheaper, 0.01)
        assert rows[name, "separate"]["extrapolated_from"] == "sparsemm 12; sparsemm 320"


def test_the_record_says_on_what_and_with_what(folder):
    record = json.loads((folder / "fanout.json").read_text())
    assert record["machine"]["cpu"]
    assert record["machine"]["threads"] >= 1
    assert set(record["allocator"]) == set(ALLOCATOR)
    assert set(record["versions"]) == {"python", "torch", "transformers", "sparsemm"}
    assert record["config"]["documents"] == 2
    assert "git_commit" in record
    assert record["date"].endswith("+00:00")
    assert sorted(path.name for path in folder.iterdir()) == ["fanout.csv", "fanout.json"]


def test_workloads_ask_what_the_local_tasks_ask():
    for name, task in (("lookup", "tiny_docvqa"), ("transcription", "tiny_ocr")):
        workload = WORKLOADS[name]
        pages = workload.pages(9)
        documents = tasks.documents(task, 9)
        assert [workload.question(page) for page in pages] == [document["question"] for document in documents]
        for page, document in zip(pages, documents, strict=True):
            with Image.open(io.BytesIO(document["image"]["bytes"])) as image:
                assert np.array_equal(np.asarray(image), np.asarray(page.image))
        assert f"max_new_tokens: {workload.max_new_tokens}\n" in tasks.TASK_FILES[task]


def test_without_hydra_the_configuration_is_the_same():
    for benchmark in names("benchmark"):
        assert configuration([benchmark, "device=cpu"]) == composed(
            "efficiency", f"benchmark={benchmark}", "device=cpu"
        )
    with pytest.raises(InputError, match="did you mean documents"):
        configuration(["fanout", "documnts=3"])
