"""Identity: what names a cell's file, and what does not."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from sparsemm.configs import InputError
from sparsemm.evaluation.cells import Cell
from sparsemm.evaluation.planning import plan
from sparsemm.heads import HeadScores
from sparsemm.models.checkpoint import fingerprint
from tests.composing import composed


@pytest.fixture(scope="module")
def cell(untrained: Path, untrained_scores: Path):
    def one(*overrides: str) -> Cell:
        base = ["task=[tiny_ocr]", "method=[snapkv]", "budget=16", f"model.head_scores={untrained_scores}"]
        if not any(override.startswith("model.pretrained") for override in overrides):
            base.append(f"model.pretrained={untrained}")
        (single,) = plan(composed("sweep", *base, *overrides))
        return single

    return one


@pytest.mark.parametrize(
    "override",
    [
        *("limit=3", "max_new_tokens=8", "budget=17", "budget=0.5", "model.window=4", "model.dtype=bfloat16"),
        *("model.images_kwargs={do_resize: false}", "model.quantization={load_in_8bit: true}"),
        "prompt=question_after_compression",
        *("methods.snapkv.kernel=3", "+methods.snapkv.window=4", "task=[tiny_docvqa]", "method=[fullkv]"),
    ],
)
def test_what_answers_depend_on_gives_another_cell(cell, override):
    assert cell(override).id != cell().id


@pytest.mark.parametrize(
    "override", ["batch_size=1", "device=cpu", "model.device_map=auto", "name=other", "output=elsewhere"]
)
def test_where_and_how_it_ran_does_not(cell, override):
    assert cell(override).id == cell().id


def test_comparable_cells_share_a_group(cell):
    assert cell("budget=32").group == cell("method=[fullkv]").group == cell().group
    assert cell("limit=3").group != cell().group


def test_what_is_compared_shares_a_group_and_what_shares_a_prefill_a_run(cell):
    after, masked = cell("prompt=question_after_compression"), cell("ablation=mask_visual", "fraction=0.1")
    assert after.group == masked.group == cell().group
    assert (
        len({one.run for one in (cell(), after, masked, cell("ablation=mask_visual", "fraction=0.2"))}) == 4
    )
    assert after.key == masked.key == cell().key
    assert cell("prompt=question_after_compression", "budget=32").run == after.run
    assert cell("prompt=question_after_compression", "method=[fullkv]").id == cell("method=[fullkv]").id
    assert cell("ablation=mask_visual", "fraction=0").id == cell().id


def test_columns_of_an_ablation(cell):
    columns = cell("ablation=mask_random", "fraction=0.1", "ablations.mask_random.seed=3").columns()
    assert (columns["ablation"], columns["fraction"], columns["seed"]) == ("mask_random", 0.1, 3)
    described = json.loads(columns["ablation_params"])
    assert described == {"mode": "remove", "seed": 3, "heads": 6, "head_scores": columns["head_scores"]}
    assert columns["head_scores"].startswith("own.safetensors@")
    plain = cell().columns()
    assert [plain[name] for name in ("ablation", "fraction", "ablation_params", "seed")] == [None] * 4
    assert plain["prompt"] == "image_question"


def test_a_list_of_seeds_gives_a_cell_for_each(untrained, untrained_scores):
    base = ["task=[tiny_ocr]", f"model.pretrained={untrained}", f"model.head_scores={untrained_scores}"]
    base += ["method=[random,snapkv]", "budget=[16,32]"]
    cells = plan(composed("sweep", *base, "methods.random.seed=[0,3]"))
    columns = [cell.columns() for cell in cells]
    assert [(row["method"], row["seed"], row["budget"]) for row in columns] == [
        *(("random", seed, budget) for seed in (0, 3) for budget in (16, 32)),
        *(("snapkv", None, budget) for budget in (16, 32)),
    ]
    single = plan(composed("sweep", *base, "methods.random.seed=3"))
    assert {cell.id for cell in single} < {cell.id for cell in cells}
    with pytest.raises(InputError, match="method random has no seed"):
        plan(composed("sweep", *base, "methods.random.seed=[]"))
    with pytest.raises(ValueError, match="seed"):
        plan(composed("sweep", *base, "methods.random.seed=[0,many]"))


def test_fingerprint_is_of_the_content_not_the_place(cell, untrained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(untrained, copy)
    (copy / "README.md").write_text("a model card")
    assert cell(f"model.pretrained={copy}").id == cell().id
    weights = load_file(copy / "model.safetensors")
    name = sorted(weights)[0]
    weights[name].view(-1)[0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(copy) != fingerprint(untrained)
    assert cell(f"model.pretrained={copy}").id != cell().id


def test_head_scores_count_by_their_content(cell, untrained_scores, tmp_path):
    own = tmp_path / "own.safetensors"
    scores = HeadScores.load(untrained_scores)
    scores.save(own)
    base = cell("method=[sparsemm]")
    moved = cell("method=[sparsemm]", f"model.head_scores={own}")
    assert moved.id == base.id
    assert moved.columns()["head_scores"].partition("@")[2] == base.columns()["head_scores"].partition("@")[2]
    HeadScores(scores.hits[:-1], scores.card).save(own)
    assert cell("method=[sparsemm]", f"model.head_scores={own}").id != base.id
    assert cell("method=[random]", f"model.head_scores={own}").columns()["head_scores"] is None


def test_columns_hold_every_parameter_once(cell):
    columns = cell("method=[sparsemm]").columns()
    assert columns["budget"] == 16
    assert columns["window"] == 8
    assert (columns["overflow"], columns["rounding"]) == ("redistribute", "exact")
    assert '"ratio": 0.1' in columns["method_params"]
    assert "budget" not in columns["method_params"]
    assert cell("method=[fullkv]").columns()["budget"] is None
