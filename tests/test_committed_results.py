"""The committed grid is what the code measures today, and the README says what its files say."""

import re
from pathlib import Path

import pandas as pd
import pytest

import sparsemm
from sparsemm.evaluation.planning import plan
from sparsemm.evaluation.uncertainty import interval
from tests.composing import composed

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results" / "tiny"
NAMES = {
    "SparseMM": "sparsemm",
    "SnapKV": "snapkv",
    "AdaKV": "adakv",
    "PyramidKV": "pyramidkv",
    "Random": "random",
}


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    return sparsemm.load_results(FOLDER)


@pytest.mark.parametrize("experiment", ["tiny", "controls"])
def test_every_cell_of_the_experiment_is_there(experiment):
    """By identity: checkpoint, tasks, method parameters, budgets and generation settings are those of now."""
    planned = {cell.id for cell in plan(composed("sweep", f"experiment={experiment}"))}
    assert planned == {path.stem for path in (FOLDER.parent / experiment / "cells").glob("*.json")}


def test_grid_is_complete_and_budgets_are_realised(cells):
    assert set(cells["method"]) == {"fullkv", *NAMES.values()}
    assert (cells["n"] == 200).all()
    evicting = cells[cells["budget"].notna() & (cells["n_uncompressed"] < 200)]
    assert (evicting["realised_budget"] == evicting["budget"]).all()
    assert (evicting["n_uncompressed"] == 0).all()


def test_budgets_hurt_and_a_budget_above_the_prompt_is_fullkv(cells):
    for _, rows in cells.groupby("task"):
        full = rows.loc[rows["method"] == "fullkv", "score"].item()
        smallest = rows[rows["budget"] == rows["budget"].min()]
        above = rows[rows["budget"] == 128]
        assert (smallest["score"] < full - 0.05).all()
        assert (above["score"] == full).all()
        assert (above["agreement_full"] == 1).all()
        assert rows.loc[rows["budget"] == 92, "score"].max() >= full - 0.02


def test_readme_table_is_the_file(cells):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    head = re.search(r"\| score at budget \|(.*)\|", text)
    assert head is not None
    budgets = [int(number) for number in head[1].split("|")]
    seen = 0
    task, scores = "", cells.set_index(["task", "method", "budget"])["score"].sort_index()
    for line in text[head.end() :].split("\n\n")[0].splitlines():
        if title := re.search(r"`(tiny_\w+)`\*\* \(FullKV (\.\d+)\)", line):
            task = title[1]
            assert f"{scores[task, 'fullkv'].item():.3f}" == f"0{title[2]}"
        elif (row := [part.strip() for part in line.strip("|").split("|")])[0] in NAMES:
            measured = [f"{scores[task, NAMES[row[0]], budget]:.3f}".removeprefix("0") for budget in budgets]
            assert row[1:] == measured, line
            seen += 1
    assert seen == 10


def test_readme_says_what_the_controls_measured():
    """Paired differences with their intervals, from the committed samples."""
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    samples = pd.read_parquet(FOLDER.parent / "controls" / "samples.parquet")
    for budget in (48, 64):
        chosen = samples[(samples["task"] == "tiny_ocr") & (samples["budget"] == budget)]
        score = chosen.pivot(index="doc_id", columns="method", values="score")
        for ours, theirs in (("sparsemm", "sparsemm_layer_mean"), ("sparsemm_layer_mean", "sparsemm_flat")):
            difference = score[ours] - score[theirs]
            low, high = interval(difference.to_list())
            assert f"{difference.mean():+.3f} [{low:+.3f}, {high:+.3f}]" in text


def test_readme_says_what_fan_out_costs():
    """The table of costs is the file's, and no fanned-out response differed from a run alone."""
    costs = pd.read_csv(FOLDER.parent / "efficiency" / "fanout.csv").set_index(["workload", "measured"])
    assert (costs["differing_documents"].dropna() == 0).all()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for label, column, digits in (
        ("of FullKV by transformers' `generate`", "ratio_to_generate", 2),
        ("of FullKV by our own loop", "ratio_to_own_loop", 2),
        ("cheaper than 36 separate runs with real eviction, times", "times_cheaper_than_separate", 1),
    ):
        measured = [costs.loc[(workload, "fanout"), column] for workload in ("lookup", "transcription")]
        assert f"| {label} | " + " | ".join(f"{value:.{digits}f}" for value in measured) + " |" in text
