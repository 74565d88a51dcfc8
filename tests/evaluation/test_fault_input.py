"""Bad options, head scores and checkpoints: one line, nothing written, and the right command works."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sparsemm import cli
from sparsemm.heads import HeadScores
from tests.evaluation.provoking import refused, sweep


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


NO_NUMBER, NO_SHARE = "budget must be an int (tokens) or a float (share)", "a share of the prompt in (0, 1]"
COUNT = "must be a positive integer"
OPTIONS = {
    "budget=0": "budget must be positive, got 0",
    "budget=-3": "budget must be positive, got -3",
    "budget=-0.5": NO_SHARE,
    "budget=0.0": NO_SHARE,
    "budget=2.5": NO_SHARE,
    "budget=nan": NO_SHARE,
    "budget=[16,many]": f"{NO_NUMBER}, got 'many'",
    "budget=true": f"{NO_NUMBER}, got True",
    "budget=null": "method snapkv needs a budget",
    "budget=[]": "no budget given (budget=[16,32])",
    "budget=[16,7]": "budget 7 is smaller than the window, 8",
    "limit=0": f"limit {COUNT} or null, got 0",
    "limit=-1": f"limit {COUNT} or null, got -1",
    "limit=few": f"limit {COUNT} or null, got 'few'",
    "limit=true": f"limit {COUNT} or null, got True",
    "batch_size=0": f"batch_size {COUNT}, got 0",
    "max_rows=0": f"max_rows {COUNT} or null, got 0",
    "max_new_tokens=0": f"max_new_tokens {COUNT} or null, got 0",
    "memory_limit=nonsense": "memory_limit must be a size such as 8GB",
    "device=cudda": "device 'cudda' cannot be used",
    "model.dtype=float31": "unknown dtype 'float31'; did you mean float32",
    "output=null": "output must name a folder, got None",
    "plan=perhaps": "plan must be true or false, got 'perhaps'",
    "methods.snapkv.kernel=4": "kernel must be odd, got 4",
    "prompt=question": "prompt must be image_question or question_after_compression, or a list of both",
    "prompt=[]": "no form of prompts given (prompt=[image_question,question_after_compression])",
    "fraction=0.1": "fraction is for an ablation, and none is chosen",
    "ablation=mask_visual model.head_scores=null": ", for mask_visual, were not measured",
    "model.head_scores=3 method=[sparsemm]": "no such file: 3",
}  # names that are unknown: tests/test_cli.py


@pytest.mark.parametrize("option", OPTIONS)
def test_options(option, untrained, tmp_path, capfd):
    assert OPTIONS[option] in refused(capfd, sweep(untrained, *option.split()))
    assert not list(tmp_path.iterdir())


ABLATIONS = {
    "ablation=mask_visual fraction=1.5": "fraction must be a share of the heads in [0, 1], got 1.5",
    "ablation=mask_visual fraction=true": "fraction must be a share of the heads in [0, 1], got True",
    "ablation=mask_visual fraction=[[1]]": "fraction must be a share of the heads in [0, 1], got [1]",
    "+ablations.foo.seed=1": "a method or ablation needs a _target_",
    "ablation=mask_visual fraction=[]": "no fraction of heads given (fraction=[0,0.1])",
    "ablation=mask_random fraction=0.7": "fraction must be at most 0.5 for random heads",
    "ablation=mask_random ablations.mask_random.seed=[]": "ablation mask_random has no seed",
    "ablation=mask_visual ablations.mask_visual.mode=zero": "mode must be one of 'remove', 'uniform'",
    "ablation=mask_visual +ablations.mask_visual.modus=remove": "no parameter 'modus'; did you mean mode",
}


@pytest.mark.parametrize("option", ABLATIONS)
def test_options_of_ablations(option, untrained, untrained_scores, tmp_path, capfd):
    command = sweep(untrained, f"model.head_scores={untrained_scores}", *option.split())
    assert ABLATIONS[option] in refused(capfd, command)
    assert not list(tmp_path.iterdir())


def wrong_scores(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        hits = np.ascontiguousarray(change(load_file(file)["hits"]))
        save_file({"hits": hits}, file)
        facts = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        card(file, json.dumps({**facts, "shape": list(hits.shape)}))

    return write


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def card(file: Path, text: str) -> None:
    file.with_suffix(".json").write_text(text)


SCORES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "no such file: "),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "no head scores at "),
    "fewer layers": (wrong_scores(lambda hits: hits[:, :4]), "head scores are (4, 8), the model's"),
    "fewer heads": (wrong_scores(lambda hits: hits[..., :4]), "head scores are (8, 4), the model's"),
    "no images": (wrong_scores(lambda hits: hits[0]), "must be [images, layers, query heads]"),
    "nan": (wrong_scores(lambda hits: hits * np.float32("nan")), "must be finite, not negative"),
    "negative": (wrong_scores(lambda hits: -hits), "must be finite, not negative"),
    "zero": (wrong_scores(lambda hits: 0 * hits), "not all zero"),
    "cut off": (cut, "holds no usable head scores: "),
    "a text": (lambda file: file.write_text("head scores"), "holds no usable head scores: "),
    "no card": (lambda file: file.with_suffix(".json").unlink(), "has no card beside it: own.json"),
    "broken card": (lambda file: card(file, "{"), "holds no usable head scores: "),
    "a list": (lambda file: card(file, "[]"), "its card own.json is no JSON object"),
    "another model's": (
        lambda file: card(file, json.dumps({"model": "other", "fingerprint": "0123"})),
        "they were measured on another model (other, fingerprint 0123; this model's is ",
    ),
}


@pytest.mark.parametrize("fault", SCORES)
def test_head_scores(fault, untrained, untrained_scores, tmp_path, capfd):
    file = tmp_path / "own.safetensors"
    for path in (file, file.with_suffix(".json")):
        shutil.copy(untrained_scores.with_suffix(path.suffix), path)
    provoke, message = SCORES[fault]
    provoke(file)
    line = refused(capfd, sweep(untrained, "method=[sparsemm]", f"model.head_scores={file}"))
    assert message in line
    assert "own.safetensors" in line
    assert not (tmp_path / "results").exists()


def test_head_scores_of_the_embedded_model_are_not_another_models(untrained, capfd):
    """They are refused for a checkpoint of the very same shape."""
    scores = "model.head_scores=results/head_scores/tiny.safetensors"
    line = refused(capfd, sweep(untrained, "method=[sparsemm]", scores))
    assert "measured on another model (tiny, fingerprint " in line
    assert "sparsemm heads" in line


def test_own_and_anonymous_head_scores_work(untrained, untrained_scores, tmp_path):
    assert cli.main(sweep(untrained, "method=[sparsemm]", f"model.head_scores={untrained_scores}")) == 0
    anonymous = HeadScores(HeadScores.load(untrained_scores).hits).save(tmp_path / "scores.safetensors")
    assert cli.main(sweep(untrained, "method=[sparsemm]", f"model.head_scores={anonymous}", "limit=1")) == 0


def lose_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("layers.0.self_attn.q_proj.weight"))]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def lose_the_processor(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in ("config.json", "generation_config.json", "model.safetensors"):
            path.unlink()


def lose(pattern: str) -> Callable[[Path], object]:
    return lambda folder: [path.unlink() for path in folder.glob(pattern)]


def break_json(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text("{")


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lose("*.safetensors"), "no file named model.safetensors"),
    "weights cut off": (lambda folder: cut(folder / "model.safetensors"), "model.safetensors is damaged"),
    "weights a text": (
        lambda folder: (folder / "model.safetensors").write_text("weights"),
        "model.safetensors is damaged",
    ),
    "a tensor missing": (
        lose_a_tensor,
        "it lacks the weights model.language_model.layers.0.self_attn.q_proj",
    ),
    "no config": (lose("config.json"), "there is no config.json"),
    "broken config": (break_json("config.json"), "config.json' is not a valid JSON file"),
    "no such model": (lambda folder: (folder / "config.json").write_text("{}"), "model_type"),
    "no processor": (lose_the_processor, "cannot load the checkpoint in "),
    "broken processor": (break_json("processor_config.json"), "processor_config.json' is not a valid JSON"),
    "no tokenizer": (lose("token*"), "has no tokenizer (tokenizer.json)"),
    "no chat template": (lose("chat_template*"), "has no chat template"),
}


@pytest.mark.parametrize("fault", CHECKPOINTS)
def test_checkpoints(fault, untrained, tmp_path, capfd):
    folder = tmp_path / "model"
    shutil.copytree(untrained, folder)
    provoke, message = CHECKPOINTS[fault]
    provoke(folder)
    line = refused(capfd, sweep(folder))
    assert message in line
    assert str(folder) in line
    assert not (tmp_path / "results").exists()


def test_a_repaired_checkpoint_is_loaded_anew(untrained, tmp_path, capfd):
    folder = tmp_path / "model"
    shutil.copytree(untrained, folder)
    assert cli.main(sweep(folder, "limit=1")) == 0
    cut(folder / "model.safetensors")
    assert "model.safetensors is damaged" in refused(capfd, sweep(folder, "limit=2"))  # not the one in memory
    shutil.copy(untrained / "model.safetensors", folder)
    assert cli.main(sweep(folder, "limit=2")) == 0
