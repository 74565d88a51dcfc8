"""A sweep end to end: real model, real pages, lmms-eval's task code, through the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sparsemm import cli
from sparsemm.evaluation.generation import generate
from sparsemm.evaluation.requests import in_batches, load_documents
from sparsemm.evaluation.results import read_cells
from sparsemm.evaluation.tables import CELL_COLUMNS, SAMPLE_COLUMNS, load_results
from sparsemm.evaluation.tasks import facts
from sparsemm.methods import FullKV, SnapKV
from sparsemm.models.loading import load

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
    files = ["allocations.parquet", "cells", "cells.csv", "comparisons.csv", "responses", "run.json"]
    files.append("samples.parquet")
    assert sorted(path.name for path in results.iterdir()) == files
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
    needed = ["realised_budget", "kv_bytes", "full_kv_bytes", "device", "dtype", "schema_version"]
    needed += ["ci_low", "ci_high", "diff_full", "diff_ci_low", "agreement_full", "agreement_prefix"]
    assert table[needed].notna().all(axis=None)
    assert table[TIMES].isna().all(axis=None)  # cells that share a prefill have no times of their own
    assert (table["n_failed"] == 0).all()
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
        assert large["realised_budget"] > 144  # the visual tokens of the smallest page
        assert large["agreement_full"] == large["agreement_prefix"] == 1
        assert 0 < small["agreement_prefix"] < 1  # the first token comes before eviction
        assert large["diff_full"] == 0


def test_samples(swept):
    samples: Any = pd.read_parquet(swept / "results/sweep/samples.parquet")
    assert list(samples.columns) == list(SAMPLE_COLUMNS)
    assert len(samples) == 6 * 4
    assert samples["doc_id"].tolist() == [0, 1, 2, 3] * 6
    for task, rows in samples.groupby("task"):
        text = rows["prompt_tokens"].to_numpy() - facts(task).loc[rows["doc_id"], "tokens"].to_numpy()
        assert ((text > 0) & (text <= 10)).all()  # a question of at most 8 tokens and two markers
    assert (samples["new_tokens"] <= 16).all()
    compressed = samples["budget"] == 16
    assert (samples.loc[compressed, "evicted_tokens"] > 0).all()
    assert (samples.loc[~compressed, "evicted_tokens"] == 0).all()
    assert samples["error"].isna().all()
    assert samples.groupby("task")["image"].nunique().eq(4).all()  # a page of its own for every document
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
    ours, theirs = (folder / "results/sweep/cells.csv" for folder in (tmp_path, swept))
    assert ours.read_bytes() == theirs.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]
    assert capsys.readouterr().out.count("documents") == 2  # one table a task, after all jobs


def test_cells_are_those_of_real_eviction(swept, untrained):
    """Responses, realised budgets and bytes of a fanned-out cell are those of a run with `RaggedCache`."""
    checkpoint = load({"pretrained": str(untrained), "dtype": "float32"}, "cpu")
    for record in read_cells(swept / "results/sweep"):
        row, samples = record["row"], record["samples"]
        method = FullKV() if row["method"] == "fullkv" else SnapKV(row["budget"], window=8)
        responses = []
        for batch in in_batches(load_documents(row["task"], limit=4, max_new_tokens=16), 3):
            conversations = [document.conversation() for document in batch]
            settings = batch[0].settings
            responses += generate(checkpoint, conversations, method, max_new_tokens=16, until=settings.until)
        assert samples["response"] == [response.text for response in responses]
        assert samples["tokens"] == [list(response.tokens) for response in responses]
        assert samples["realised_budget"] == [response.realised_budget for response in responses]
        assert samples["image"] == [response.image for response in responses]
        assert row["kv_bytes"] == round(sum(response.kv_bytes for response in responses) / 4)
        assert row["full_kv_bytes"] == round(sum(response.full_kv_bytes for response in responses) / 4)


def test_a_plan_runs_nothing(untrained, tmp_path, capsys):
    sweep(tmp_path, untrained, "method=[fullkv,snapkv]", *GRID, "plan=true", "max_rows=2")
    assert not (tmp_path / "results").exists()
    said = capsys.readouterr()
    assert not said.out
    assert "tiny_ocr: 3 cells, 4 documents" in said.err
    assert "4 prompts to read in 2 batches; up to 9 rows a batch, 2 at a time, in at most" in said.err
    assert "nothing was run" in said.err


def test_limits_change_no_result(swept, untrained, tmp_path):
    sweep(tmp_path, untrained, "method=[fullkv,snapkv]", *GRID, "max_rows=2", "memory_limit=1MB")
    ours, theirs = (folder / "results/sweep/cells.csv" for folder in (tmp_path, swept))
    assert ours.read_bytes() == theirs.read_bytes()


def test_rows_do_not_depend_on_what_was_answered_before(swept, untrained, tmp_path):
    """The same documents in other batches, some of them by an earlier sweep."""
    for limit, size in (("limit=3", "batch_size=2"), ("limit=4", "batch_size=4")):
        sweep(tmp_path, untrained, "method=[fullkv,snapkv]", *GRID[:2], limit, size, *GRID[4:])
    for name in ("cells.csv", "samples.parquet", "allocations.parquet"):
        ours, theirs = (folder / "results/sweep" / name for folder in (tmp_path, swept))
        assert ours.read_bytes() == theirs.read_bytes(), name


def test_more_documents_reuse_the_responses_of_fewer(swept, untrained, tmp_path, capsys):
    shutil.copytree(swept, tmp_path, dirs_exist_ok=True)
    sweep(tmp_path, untrained, "method=[fullkv,snapkv]", *GRID, "limit=5", "plan=true")
    assert "1 prompts to read in 1 batches" in capsys.readouterr().err
    sweep(tmp_path, untrained, "method=[fullkv,snapkv]", *GRID, "limit=5")
    assert (loaded(tmp_path)["n"] == 5).all()
