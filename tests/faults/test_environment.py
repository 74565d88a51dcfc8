"""What the environment says is used and never written down; files have the permissions that it asks for."""

import json
import os
import stat
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from sparsemm import cli
from sparsemm.cli.resolving import resolve
from sparsemm.configs import read, recorded
from tests.composing import composed
from tests.evaluation.provoking import sweep

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", SECRET)


def test_texts_of_the_environment_are_recorded_as_they_were_written():
    plain = composed("sweep")
    config = OmegaConf.create(
        {
            **plain,
            "name": "${oc.env:SECRET}",
            "output": "out/${name}",
            "model": {**plain["model"], "quantization": {"key": "${oc.env:SECRET}"}},
            "prompt": "${oc.decode:'[${oc.env:SECRET}]'}",
            "methods": {"a": "${model}", "b": ["${output}", "kept"]},
        }
    )
    values = resolve("sweep", config)
    assert values["output"] == f"out/{SECRET}"
    assert values["prompt"] == [SECRET]
    written = recorded(values)
    assert SECRET not in json.dumps(written)
    assert written["output"] == "out/${name}"
    assert written["model"]["quantization"] == {"key": "${oc.env:SECRET}"}
    assert written["methods"]["b"][1] == "kept"
    assert {name: written[name] for name in ("budget", "tasks")} == {
        name: plain[name] for name in ("budget", "tasks")
    }
    assert OmegaConf.to_container(OmegaConf.create({"a": "${oc.env:SECRET}"}), resolve=True) == {"a": SECRET}


@pytest.mark.parametrize("multirun", [[], ["-m"]], ids=["one job", "multirun"])
def test_no_file_of_a_sweep_holds_them(multirun, untrained, capfd):
    own = Path("conf/model/own.yaml")
    own.parent.mkdir(parents=True)
    own.write_text(yaml.safe_dump({**read("model", "tiny"), "name": "own", "ocr_prompt": "${oc.env:SECRET}"}))
    options = ["model=own", "output=results/own", "--config-dir", "conf"]
    assert cli.main([*sweep(untrained, *options), *multirun]) == 0
    files = [path for path in Path().rglob("*") if path.is_file()]
    assert any(path.name == "run.json" for path in files)
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    run = json.loads(Path("results/own/run.json").read_text())
    assert run["config"]["model"]["ocr_prompt"] == "${oc.env:SECRET}"


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_files_follow_the_umask(mask, untrained, untrained_scores):
    before = os.umask(mask)
    try:
        scores = f"model.head_scores={untrained_scores}"
        assert cli.main(sweep(untrained, "method=[fullkv,sparsemm]", scores)) == 0
        assert cli.main(["report", "results/sweep"]) == 0
        assert cli.main(["overlap", str(untrained_scores), str(untrained_scores), "--output", "o.csv"]) == 0
    finally:
        os.umask(before)
    asked = {path: (0o777 if path.is_dir() else 0o666) & ~mask for path in Path().rglob("*") if path.exists()}
    assert len(asked) > 10
    assert [str(path) for path, mode in asked.items() if stat.S_IMODE(path.stat().st_mode) != mode] == []
