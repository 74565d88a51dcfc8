"""A checkpoint in a folder is a model of its own: name, settings, files; and a name stands for one model."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sparsemm import cli
from sparsemm.configs import own_model, read, shipped
from sparsemm.efficiency.__main__ import configuration
from sparsemm.evaluation.model import SparseMMChat
from tests.evaluation.provoking import refused

GRID = ["task=[tiny_ocr]", "method=[snapkv]", "budget=[40]", "limit=1", "max_new_tokens=2"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def two(tmp_path: Path, untrained: Path) -> tuple[Path, Path]:
    """Two checkpoints in folders of one name."""
    one, other = tmp_path / "a/mine", tmp_path / "b/mine"
    for folder in (one, other):
        shutil.copytree(untrained, folder)
    settings = json.loads((other / "generation_config.json").read_text(encoding="utf-8"))
    (other / "generation_config.json").write_text(json.dumps({**settings, "top_k": 7}), encoding="utf-8")
    return one, other


def sweep(folder: Path, *overrides: str) -> list[str]:
    return ["sweep", *GRID, f"model.pretrained={folder}", *overrides]


def test_two_models_of_one_name_are_refused(two: tuple[Path, Path], capfd: pytest.CaptureFixture[str]):
    one, other = two
    assert cli.main(sweep(one)) == 0
    [row] = pd.read_csv("results/sweep/cells.csv").to_dict("records")
    assert (row["model"], row["window"], row["dtype"]) == ("mine", 32, "float32")
    run: dict[str, Any] = json.loads(Path("results/sweep/run.json").read_text(encoding="utf-8"))["config"]
    assert run["model"] == {**own_model(str(one)), "dtype": "auto", "head_scores": None}
    before = Path("results/sweep/cells.csv").read_bytes()
    for overrides in ([], ["plan=true"], ["budget=[64]"], ["task=[tiny_docvqa]"]):
        line = refused(capfd, sweep(other, *overrides))
        assert "results/sweep would hold two models of the name mine" in line
        assert "model.name=NAME" in line
    assert "two models of the name mine" in refused(capfd, sweep(one, "model.dtype=bfloat16"))
    assert "two models of the name mine" in refused(
        capfd, ["sweep", "-m", *GRID, f"model.pretrained={one},{other}", "output=results/both"]
    )
    assert Path("results/sweep/cells.csv").read_bytes() == before
    assert not Path("results/both").exists()
    assert cli.main(sweep(other, "model.name=other")) == 0
    assert sorted(pd.read_csv("results/sweep/cells.csv")["model"]) == ["mine", "other"]


def test_what_is_given_stays(untrained: Path):
    """Also what equals the embedded model's, and where options come as one mapping."""
    given = ["budget=[8,40]", "model.dtype=float32"]
    assert cli.main(sweep(untrained, *given, "model.window=8", "plan=true")) == 0
    mapping = f"model={{pretrained: {untrained}, window: 8}}"
    assert cli.main(["sweep", *GRID, "budget=[8]", mapping, "plan=true"]) == 0


def test_what_refers_to_the_name_follows_it(untrained: Path, capfd: pytest.CaptureFixture[str]):
    scores = "model.head_scores=scores/${model.name}.safetensors"
    line = refused(capfd, sweep(untrained, "method=[sparsemm]", scores))
    assert line == f"sparsemm: no such file: scores/{untrained.name}.safetensors"
    line = refused(capfd, sweep(untrained, "method=[sparsemm]"))
    assert f"head scores of {untrained.name}, for sparsemm, were not measured yet" in line
    assert f"sparsemm heads model.pretrained={untrained}, then model.head_scores=FILE" in line


def test_a_hubs_checkpoint_that_lies_elsewhere_keeps_its_settings(untrained: Path):
    assert (
        cli.main(sweep(untrained, "model=qwen2_vl_7b", "model.images_kwargs=null", "model.dtype=auto")) == 0
    )
    [row] = pd.read_csv("results/sweep/cells.csv").to_dict("records")
    assert (row["model"], row["window"]) == ("qwen2_vl_7b", 32)


def test_heads_go_to_a_file_of_the_models_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    folder, committed = tmp_path / "copy", shipped("results/head_scores")
    shutil.copytree(shipped("tiny/checkpoint"), folder)
    before = {path: path.read_bytes() for path in committed.iterdir()}
    command = ["heads", "n=1", "kinds=[form]", "batch_size=1", f"model.pretrained={folder}"]
    assert cli.main(command) == 0
    file = Path("outputs/head_scores/copy.safetensors")
    assert file.is_file()
    assert json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))["model"] == "copy"
    assert {path: path.read_bytes() for path in committed.iterdir()} == before
    measured = file.read_bytes()
    (folder / "generation_config.json").write_text("{}")
    line = refused(capfd, command)
    assert line.startswith(f"sparsemm: {file} is of another model")
    assert file.read_bytes() == measured
    assert cli.main([*command, "output=outputs/head_scores/again.safetensors"]) == 0


@pytest.mark.parametrize("verb", ["heads", "efficiency"])
def test_no_default_output_is_committed(verb: str):
    text = (shipped("eval_configs") / f"{verb}.yaml").read_text(encoding="utf-8")
    assert "\noutput: outputs/" in text


def test_lmms_eval_and_the_bare_benchmark_give_the_same_settings(untrained: Path):
    chat = SparseMMChat(str(untrained), method="snapkv", budget=40, device="cpu")
    found = configuration(["fanout", f"model.pretrained={untrained}", "budgets=[40]"])["model"]
    assert found == own_model(str(untrained))
    assert (chat.method.window, found["window"]) == (32, 32)
    assert found["name"] == untrained.name


@pytest.mark.parametrize(
    ("pretrained", "name"),
    [("a/b", "b"), ("a/b/", "b"), ("/x/2025", "2025"), ("org/Model-7B", "Model-7B"), (".", ""), ("a/..", "")],
)
def test_names(pretrained: str, name: str):
    found = own_model(pretrained)
    assert found["name"] == (name or Path.cwd().name)
    assert found.keys() == read("model", "tiny").keys()
