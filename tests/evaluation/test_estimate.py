"""What a grid will cost, before anything is on the machine; and what a plan finds wrong then."""

import re
from pathlib import Path

import pytest

from sparsemm import cli
from sparsemm.evaluation.estimate import Rate, costs, measured
from sparsemm.evaluation.store import ResponseStore
from tests.composing import composed
from tests.evaluation.provoking import refused
from tests.evaluation.store_worker import batch
from tests.evaluation.test_store import CELLS

MODELS = "llava_next_vicuna_7b,llava_next_mistral_7b,qwen2_vl_7b"
TASKS = "docvqa_val,ocrbench,textvqa_val,chartqa,textcaps_val"
METHODS = "method=[fullkv,snapkv,pyramidkv,adakv,sparsemm]"
GRID = [METHODS, "budget=[64,128,256,512,1024,2048]"]
DOCUMENTS = 5349 + 1000 + 5000 + 2500 + 3166


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_papers_grid(capfd, elsewhere):
    arguments = ["sweep", "-m", f"model={MODELS}", f"task={TASKS}", *GRID, "plan=true", "rate=[0.5,0.6]"]
    assert cli.main(arguments) == 0
    said = capfd.readouterr()
    assert not said.out
    lines = [re.sub(r"\s+", " ", line).strip() for line in said.err.splitlines()]
    assert "qwen2_vl_7b docvqa_val 25 5,349" in lines
    total = (
        f"15 jobs, 375 cells: {3 * DOCUMENTS:,} prompts to read fanned out, {75 * DOCUMENTS:,} cell by cell"
    )
    assert f"{total} (25.0 times as many)" in lines
    hours = (3 * DOCUMENTS * 0.6 / 3600, 75 * DOCUMENTS * 0.5 / 3600)
    assert (
        f"GPU hours: {hours[0]:,.1f} fanned out, {hours[1]:,.1f} cell by cell "
        "(at 0.5 s a document under one cell, 0.6 s under all cells at once)"
    ) in lines
    assert sum(line.startswith("missing: the model") for line in lines) == 3  # each thing once
    assert sum(line.startswith("missing: the dataset") for line in lines) == 5
    assert lines[-1] == "nothing was run (plan=true)"
    assert not list(elsewhere.iterdir())


def test_prefills_of_prompts_and_ablations():
    given = ["task=[tiny_ocr]", "limit=10", "method=[fullkv,snapkv]", "budget=[16,32]"]
    [cost] = costs(composed("sweep", *given))
    assert (cost.documents, cost.prefills) == (10, (3,))
    more = [
        "prompt=[image_question,question_after_compression]",
        "ablation=[mask_visual]",
        "fraction=[0,0.1]",
    ]
    [cost] = costs(composed("sweep", *given, *more))
    assert sorted(cost.prefills) == [2, 2, 3, 3]
    assert cost.cells == 10


def test_a_rate_is_measured_from_what_was_stored(elsewhere):
    one, several = CELLS[:1], CELLS[:4]
    with ResponseStore.open(elsewhere, CELLS) as store:
        for number, first in enumerate(range(0, 8, 2)):
            store._commit(batch(one, [first, first + 1]), committed=100 + number * 1.0)
        for number, first in enumerate(range(10, 18, 2)):
            store._commit(batch(several, [first, first + 1]), committed=500 + number * 4.0)
    rate = measured(elsewhere)
    assert rate == Rate(0.5, 2.0, 4)
    assert rate.fanned_out(4) == 2.0
    assert rate.fanned_out(7) == pytest.approx(3.5)
    assert Rate(0.5, None).fanned_out(7) is None
    assert Rate(0.5, 0.4, 4).fanned_out(90) == 0.5


def test_a_plan_without_the_model_looks_at_all_parameters(capfd):
    plan = ["sweep", "model=qwen2_vl_7b", "task=[docvqa_val]", "plan=true"]
    assert "smaller than the window" in refused(capfd, [*plan, "method=[sparsemm]", "budget=16"])
    assert "ratio" in refused(capfd, [*plan, "method=[sparsemm]", "budget=64", "methods.sparsemm.ratio=3"])
    wrong = ["ablation=mask_visual", "method=fullkv", "ablations.mask_visual.mode=zero"]
    assert "mode must be one of" in refused(capfd, [*plan, *wrong])


@pytest.mark.parametrize("model", ["tiny", "qwen2_vl_7b"])
def test_ablations_that_are_the_same_are_not_merged(model, capfd):
    both = [
        f"model={model}",
        "task=[tiny_ocr]",
        "method=fullkv",
        "ablation=[mask_visual,mask_visual_uniform]",
    ]
    same = [*both, "ablations.mask_visual_uniform.mode=remove", "plan=true"]
    line = refused(capfd, ["sweep", *same])
    assert "ablations mask_visual and mask_visual_uniform are the same (mode remove): leave one out" in line
