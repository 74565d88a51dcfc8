"""The doctor on every family, loaded from files as users' checkpoints are; and on patients that are ill."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AttentionInterface

from sparsemm import cli
from sparsemm.cache import ATTENTION_NAME, register
from sparsemm.cache.attention import sparsemm_attention
from tests.evaluation.provoking import refused
from tests.families import VISUAL, build

OVERVIEW = ("llava_next", "llava_next_mistral", "llava_onevision", "internvl", "idefics3", "smolvlm")
Save = Callable[[str], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Folder of a family's checkpoint."""

    def save(family: str) -> Path:
        folder = tmp_path_factory.mktemp(family)
        model, processor = build(family)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return save


def examine(folder: Path, *overrides: str) -> list[str]:
    return ["doctor", f"model.pretrained={folder}", "model.name=patient", "model.window=8", *overrides]


@pytest.mark.parametrize("family", VISUAL)
def test_every_family_is_well(family: str, saved: Save, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(examine(saved(family), "method=[snapkv,adakv,pyramidkv]", "budget=16"))
    shown = " ".join(capsys.readouterr().out.split())
    assert code == 0, shown
    assert "compression works with this model" in shown
    assert f"patient: {type(build(family)[0]).__name__}" in shown
    assert "equal to transformers' own cache to the bit (prompt and 8 tokens)" in shown
    assert shown.count("budget 16 tokens; realised 16.00 of") == 3
    assert "the same tokens as with real eviction" in shown
    assert "decode backend grouped" in shown
    layers = "2 of 4 compress (full attention); kept as they are: 2 DynamicSlidingWindowLayer"
    assert (layers if family == "gemma3" else "2 of 2 compress (full attention) ok") in shown
    assert ("of them an overview" in shown) == (family in OVERVIEW)


def test_options_of_the_image_processor_reach_it(saved: Save, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved("gemma3")
    crops = "model.images_kwargs={do_pan_and_scan: true, pan_and_scan_min_crop_size: 32}"
    assert cli.main(examine(folder, crops, "budget=16")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "12 for an image of 128 x 288 pixels, 4 of them an overview" in shown


def test_a_decode_backend_can_be_chosen(saved: Save, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(examine(saved("qwen2_vl"), "backend=loop", "budget=16")) == 0
    assert "decode backend loop" in " ".join(capsys.readouterr().out.split())


def test_a_picture_and_a_question_can_be_given(
    saved: Save, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (24, 16), "red").save(tmp_path / "red.png")
    assert cli.main(examine(saved("qwen2_vl"), f"image={tmp_path / 'red.png'}", "prompt=what is red")) == 0
    assert "19 tokens, 6 for an image of 24 x 16 pixels" in " ".join(capsys.readouterr().out.split())


def test_a_budget_that_evicts_nothing_is_no_proof(saved: Save, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(examine(saved("llava"), "budget=900")) == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "WRONG adakv" in shown
    assert "nothing was evicted: choose a smaller budget" in shown
    assert "1 of 7 wrong" in shown


def test_an_attention_that_differs_is_found(saved: Save, capsys: pytest.CaptureFixture[str]) -> None:
    """As a new release of transformers, or a kernel, might make it."""

    def forgetful(module: Any, query: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return sparsemm_attention(module, query * 1.1, *args, **kwargs)

    folder = saved("llava")
    AttentionInterface.register(ATTENTION_NAME, forgetful)
    try:
        assert cli.main(examine(folder, "budget=16")) == 1
    finally:
        register()
    assert "WRONG FullKV" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["budget=4"], "sparsemm: budget 4 is smaller than the window, 8"),
        (["max_new_tokens=1"], "sparsemm: max_new_tokens must be an integer of at least 2, got 1"),
        (["method=[]"], "sparsemm: no method is chosen (method=[adakv])"),
        (["image=none.png"], "sparsemm: image=none.png cannot be read: No such file or directory"),
        (["image=README.md"], "sparsemm: image=README.md cannot be read: it is no picture"),
        (
            ["model.images_kwargs={do_pan_and_scann: true}"],
            "model.images_kwargs: Qwen2VLImageProcessor has no option 'do_pan_and_scann'; ",
        ),
        (["model.quantization={load_in_4bit: true}"], "bitsandbytes"),
        (
            ["model.quantization={load_in_4bt: true}"],
            "there is no option 'load_in_4bt'; did you mean load_in_4bit",
        ),
        (["backend=flash"], "backend must be one of grouped, loop, padded, triton, "),
    ],
    ids=lambda value: value[0].split("=")[0] if isinstance(value, list) else "",
)
def test_wrong_options_are_refused_in_one_line(
    overrides: list[str], message: str, saved: Save, capfd: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capfd, examine(saved("qwen2_vl"), *overrides))


def test_a_model_that_cannot_be_compressed_is_refused_in_one_line(
    saved: Save, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = saved("llava_next_mistral")
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config.replace('"sliding_window": null', '"sliding_window": 8'))
    assert "mistral has no full-attention layer to compress" in refused(capfd, examine(folder))


def test_the_readme_shows_what_the_doctor_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["doctor"]) == 0
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    readme = Path("README.md").read_text(encoding="utf-8")
    assert readme.partition("$ sparsemm doctor\n")[2].partition("\n```")[0].splitlines() == shown
