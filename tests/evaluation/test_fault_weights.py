"""Weights that are there and no numbers: an error of the run, never a score of zero.

A fault more is a row more of `WEIGHTS`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsemm import cli
from sparsemm.configs import InputError
from sparsemm.evaluation.model import SparseMMChat
from tests.evaluation.provoking import one_line, stored, sweep, temporary
from tests.evaluation.test_model import answer

WEIGHTS = {
    "the embedding": ("embed_tokens.weight", "nan"),
    "a query": ("layers.0.self_attn.q_proj.weight", "nan"),
    "a key": ("layers.3.self_attn.k_proj.weight", "nan"),
    "the last layer": ("layers.7.mlp.down_proj.weight", "nan"),
    "the vision tower": ("visual.patch_embed.proj.weight", "nan"),
    "infinite": ("layers.7.mlp.down_proj.weight", "inf"),
}
"""What is spoilt: one column of a tensor, and by which number."""
REASON = "the model's logits are not finite: its weights hold NaN or infinity"


def spoilt(untrained: Path, folder: Path, tensor: str, number: str) -> Path:
    """A copy of the checkpoint."""
    shutil.copytree(untrained, folder)
    weights = load_file(folder / "model.safetensors")
    [name] = [name for name in weights if name.endswith(tensor)]
    weights[name][:, 0] = float(number)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("fault", WEIGHTS)
def test_a_sweep(fault, untrained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = spoilt(untrained, tmp_path / "model", *WEIGHTS[fault])
    assert cli.main(sweep(model, "method=[fullkv,snapkv,adakv]")) == 2
    line = one_line(capfd.readouterr().err)
    assert "no document could be answered under 3 of 3 cells, which have no score (tiny_ocr: " in line
    assert REASON in line
    results = Path("results/sweep")
    assert {failed for _, _, failed in stored(results)} == {1}
    assert not (results / "cells").exists()
    assert not (results / "cells.csv").exists()
    assert temporary(results) == []


def test_all_others_that_read_a_model(untrained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    model = spoilt(untrained, tmp_path / "model", *WEIGHTS["a key"])
    assert cli.main(["doctor", f"model.pretrained={model}"]) == 1
    assert REASON in " ".join(capfd.readouterr().out.split())
    assert cli.main(["heads", f"model.pretrained={model}", "n=2", "output=own.safetensors"]) == 2
    assert REASON in one_line(capfd.readouterr().err)
    assert not Path("own.safetensors").exists()
    chat = SparseMMChat(str(model), method="snapkv", budget=16, window=8, device="cpu")
    with pytest.raises(InputError, match="document 0 has no answer: FloatingPointError: the model's logits"):
        answer(chat, [{"max_new_tokens": 4}])


SHAPES: dict[str, tuple[Callable[[Tensor], Tensor | None], str]] = {
    "of another shape": (
        lambda weight: weight[:, :-1].contiguous(),
        "does not fit its own config.json: the weights model.language_model.layers.1.mlp.up_proj.weight have "
        "the shape [384, 191], and [384, 192] is wanted",
    ),
    "lacking": (
        lambda weight: None,
        "is not whole: it lacks the weights model.language_model.layers.1.mlp.up_proj.weight",
    ),
}


@pytest.mark.parametrize("fault", SHAPES)
def test_weights_that_do_not_fit_the_configuration_are_named(fault, untrained, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    change, said = SHAPES[fault]
    model = shutil.copytree(untrained, tmp_path / "model")
    weights = load_file(model / "model.safetensors")
    [name] = [name for name in weights if name.endswith("layers.1.mlp.up_proj.weight")]
    changed = change(weights.pop(name))
    if changed is not None:
        weights[name] = changed
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert cli.main(sweep(model)) == 2
    assert one_line(capfd.readouterr().err) == f"sparsemm: the checkpoint in {model} {said}"
    assert not Path("results").exists()
