"""Python code that comes with a checkpoint: nothing runs it, nobody is asked, unless an option says so."""

import ast
import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from transformers import Qwen2VLForConditionalGeneration

import sparsemm
from sparsemm import cli
from sparsemm.configs import InputError
from sparsemm.models.checkpoint import fingerprint
from sparsemm.models.loading import load, without_weights
from tests.evaluation.provoking import one_line

CODE = """
from pathlib import Path
from transformers import PretrainedConfig, Qwen2VLConfig, Qwen2VLForConditionalGeneration

Path({mark!r}).touch()

class Own(Qwen2VLConfig):
    model_type = "own"

class OwnModel(Qwen2VLForConditionalGeneration):
    pass

def generate(model, **options):
    raise AssertionError
"""


def change(name: str, **values: Any) -> Callable[[Path], object]:
    """Give a JSON file of the checkpoint other values; it is made if it is not there."""

    def write(folder: Path) -> None:
        file = folder / name
        held = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        file.write_text(json.dumps({**held, **values}), encoding="utf-8")

    return write


def custom_generate(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    shutil.copy(folder / "own.py", folder / "custom_generate" / "generate.py")


MODEL = change(
    "config.json",
    model_type="own",
    auto_map={"AutoConfig": "own.Own", "AutoModelForImageTextToText": "own.OwnModel"},
)
PLACES = {
    "config and model": MODEL,
    "processor": change("processor_config.json", processor_class="X", auto_map={"AutoProcessor": "own.Own"}),
    "tokenizer": change(
        "tokenizer_config.json", tokenizer_class="X", auto_map={"AutoTokenizer": ["own.Own", None]}
    ),
    "image processor": change(
        "preprocessor_config.json", image_processor_type="X", auto_map={"AutoImageProcessor": "own.Own"}
    ),
    "video processor": change(
        "video_preprocessor_config.json", video_processor_type="X", auto_map={"AutoVideoProcessor": "own.Own"}
    ),
    "parts in the processor's file": change(
        "processor_config.json",
        image_processor={"image_processor_type": "X", "auto_map": {"AutoImageProcessor": "own.Own"}},
        video_processor={"video_processor_type": "X", "auto_map": {"AutoVideoProcessor": "own.Own"}},
    ),
    "known model": change("config.json", auto_map={"AutoModelForImageTextToText": "own.OwnModel"}),
    "generation": custom_generate,
}
TRUSTED = "model.trust_remote_code=true"


@pytest.fixture
def hostile(untrained: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a checkpoint with code of its own in one place."""

    def make(place: str) -> Path:
        folder = tmp_path / "hostile"
        shutil.copytree(untrained, folder)
        (folder / "own.py").write_text(CODE.format(mark=str(tmp_path / "it ran")), encoding="utf-8")
        PLACES[place](folder)
        return folder

    return make


@pytest.mark.parametrize("place", PLACES)
def test_no_place_of_it_is_run_or_asked_for(place, hostile, tmp_path, nobody_is_asked):
    model = {"pretrained": str(hostile(place)), "dtype": "float32"}
    for opened in (load, without_weights):
        with contextlib.suppress(InputError):  # of known kinds, or where code is only beside, all is well
            opened(model, "cpu")
    assert nobody_is_asked == []
    assert not (tmp_path / "it ran").exists()


COMMANDS = [
    ["sweep", "task=[tiny_ocr]", "method=[snapkv]", "budget=64", "limit=1"],
    ["sweep", "task=[tiny_ocr]", "method=[snapkv]", "budget=64", "limit=1", "plan=true"],
    ["heads", "n=1"],
    ["doctor"],
    ["efficiency", "fanout", "documents=1", "methods=[snapkv]", "budgets=[64]", "separate=1"],
    ["efficiency", "decode", "shapes=[checkpoint]", "lengths=[64]"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_refuses_it(command, hostile, tmp_path, monkeypatch, capfd, nobody_is_asked):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*command, f"model.pretrained={hostile('config and model')}"]) == 2
    line = one_line(capfd.readouterr().err)
    assert "which is run only with model.trust_remote_code=true" in line
    assert nobody_is_asked == []
    assert not (tmp_path / "it ran").exists()
    assert not (tmp_path / "results").exists()


def test_an_option_allows_it_and_the_plan_says_so(hostile, tmp_path, monkeypatch, capfd, nobody_is_asked):
    folder = hostile("known model")
    # Classes that transformers does not know get no help with older names of weights.
    weights = Qwen2VLForConditionalGeneration.from_pretrained(folder).state_dict()
    save_file({name: value.clone() for name, value in weights.items()}, folder / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    command = ["sweep", "task=[tiny_ocr]", "method=[snapkv]", "budget=64", "limit=1", "max_new_tokens=4"]
    command += [f"model.pretrained={folder}", TRUSTED]
    assert cli.main([*command, "plan=true"]) == 0
    assert "code that comes with the checkpoint is run" in capfd.readouterr().err
    assert (tmp_path / "it ran").exists()
    assert cli.main(command) == 0
    assert nobody_is_asked == []


def test_the_option_is_true_or_false_and_code_is_in_the_fingerprint(untrained, hostile, tmp_path):
    with pytest.raises(InputError, match="trust_remote_code must be true or false, got 'yes'"):
        load({"pretrained": str(untrained), "trust_remote_code": "yes"}, "cpu")
    folder = hostile("known model")
    before = fingerprint(folder)
    (folder / "own.py").write_text("")
    assert fingerprint(folder) != before


def test_every_loading_call_says_whether_code_is_trusted():
    """What is not said would be asked: an Auto class anywhere in the package must have the argument."""
    lacking = []
    for path in Path(sparsemm.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="from_pretrained" | "from_config"), keywords=given):
                    if "trust_remote_code" not in [keyword.arg for keyword in given]:
                        lacking.append(f"{path.name}:{node.lineno}")
    assert lacking == []
