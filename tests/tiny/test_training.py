"""Training batches are what the model meets in use; training resumes as if it had never stopped."""

import csv
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparsemm.documents import make_page
from sparsemm.tiny import build_model, lookup_question
from sparsemm.tiny.batches import GLYPHS, IGNORE, Packer
from sparsemm.tiny.reader import ATTENTION, Reader
from sparsemm.tiny.recipe import Stage, TrainConfig, learning_rate
from sparsemm.tiny.training import train


def pages(n, tokens=32):
    return [make_page(seed, split="train", tokens=tokens) for seed in range(n)]


def test_patches_are_the_processors(untrained):
    processor = AutoProcessor.from_pretrained(untrained)
    page = make_page(0, tokens=96)
    batch = Packer().pack_vision([page])
    inputs = processor.image_processor(images=[page.image], return_tensors="pt")
    torch.testing.assert_close(batch.pixels[0], inputs["pixel_values"], rtol=0, atol=1e-6)
    assert inputs["image_grid_thw"].tolist() == [[1, 2 * batch.grid[0], 2 * batch.grid[1]]]


def test_a_branch_is_the_question_asked_alone(untrained):
    """Logits of the value's characters inside the packed sequence equal those of an ordinary forward."""
    processor = AutoProcessor.from_pretrained(untrained)
    model: Any = AutoModelForImageTextToText.from_pretrained(untrained).eval()
    page = next(p for p in pages(20, 96) if len(p.fields) >= 3)
    batch = Packer().pack([page], lookups=3, transcribe=True, order=np.random.default_rng(0))
    model.set_attn_implementation(ATTENTION)
    reader = Reader(model)
    stage = Stage(1, 1, (96,), 1.0, 1.0, lookups=3, transcribe=1.0)
    captured = []
    handle = model.lm_head.register_forward_hook(lambda module, args, out: captured.append(out))
    with torch.no_grad():
        reader.losses(batch, stage)
    handle.remove()
    assert batch.text is not None
    logits, wanted = captured[0], batch.text.weights[0] > 0
    model.set_attn_implementation("sdpa")
    chosen = np.random.default_rng(0).permutation(len(page.fields))[:3]
    start = 0
    for index in chosen:
        key, value = page.fields[index]
        content = [{"type": "image"}, {"type": "text", "text": lookup_question(key)}]
        chat = [{"role": "user", "content": content}, {"role": "assistant", "content": value}]
        text = processor.apply_chat_template(chat, tokenize=False)
        inputs = processor(text=[text], images=[page.image], return_tensors="pt")
        with torch.no_grad():
            alone = model(**inputs).logits[0]
        predicted = (
            len(value) + 1
        )  # the value and the end; before them, the key's three characters have a loss
        torch.testing.assert_close(
            logits[start + 3 : start + 3 + predicted], alone[-2 - len(value) : -1], rtol=0, atol=1e-4
        )
        start += 3 + predicted
    assert wanted.sum() == start + len(page.text) + 1


def test_labels_are_the_next_token_of_the_same_branch():
    some = pages(4)
    batch = Packer().pack(some, lookups=2, transcribe=True, order=np.random.default_rng(1))
    text = batch.text
    assert text is not None
    length = text.input_ids.shape[1]
    for row in range(len(some)):
        for place in range(length):
            label = text.labels[row, place]
            assert (label == IGNORE) == (text.weights[row, place] == 0)
            if label != IGNORE:
                assert label == text.input_ids[row, place + 1]
                assert text.mask[row, 0, place + 1, place]


def test_glyph_labels_name_the_characters_of_the_page():
    page = make_page(2, split="train", tokens=32, dense=True)
    labels = Packer().pack_vision([page]).glyphs[0]
    names = {index: character for character, index in GLYPHS.items()}
    columns = page.image.width // 16
    for row, line in enumerate(page.lines):
        halves = labels.view(-1, columns * 2)[row].tolist()
        read = "".join(names[label] for label in halves if label)
        text = "".join(word.text for word in line)
        assert len(read) >= len(text) - 2  # at 7 pixels an advance two centres can share a half
        assert set(read) <= set(text)


SHORT = (
    Stage(3, 4, (32,), 1e-3, 1e-4, auxiliary=1.0, read=False),
    Stage(4, 4, (32, 48), 1e-3, 1e-4, lookups=2, transcribe=0.5, auxiliary=0.5),
)


def test_resumed_training_equals_uninterrupted(tmp_path, monkeypatch):
    config = TrainConfig(
        output=str(tmp_path / "whole"),
        stages=list(SHORT),
        workers=0,
        evaluate=0,
        log_every=1,
        save_seconds=1e9,
    )
    train(config)
    cut = dataclasses.replace(config, output=str(tmp_path / "cut"), save_seconds=0.0)
    calls = 0
    losses = Reader.losses

    def interrupted(self, batch, stage):
        nonlocal calls
        calls += 1
        if calls == 5:
            raise KeyboardInterrupt
        return losses(self, batch, stage)

    monkeypatch.setattr(Reader, "losses", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(cut)
    monkeypatch.undo()
    train(cut)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name
    with (tmp_path / "cut" / "log.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(7))


def test_a_few_steps_lower_the_loss(tmp_path):
    stages = [Stage(25, 8, (32,), 3e-3, 1e-3, auxiliary=1.0, read=False)]
    train(TrainConfig(output=str(tmp_path), stages=stages, workers=0, evaluate=0, log_every=1))
    with (tmp_path / "log.csv").open() as file:
        losses = [float(row["glyph_loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < losses[0] - 0.3
    smallest = torch.tensor(1e-40)
    assert smallest * 1 != 0, "training left the process flushing denormals"


def test_learning_rate_warms_up_and_falls():
    stage = Stage(200, 8, (32,), 1e-3, 1e-5)
    rates = [learning_rate(stage, step) for step in range(200)]
    assert rates[0] == pytest.approx(2e-5)
    assert max(rates) < 1e-3
    assert rates.index(max(rates)) in range(45, 55)
    assert rates[-1] == pytest.approx(1e-5, rel=0.1)


def test_frozen_tower_does_not_move(tmp_path):
    stages = [Stage(2, 4, (32,), 1e-2, 1e-2, lookups=2, transcribe=1.0, train_vision=False)]
    before = Reader(build_model()).state_dict()
    train(TrainConfig(output=str(tmp_path), stages=stages, workers=0, evaluate=0))
    after = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith("model.visual") or name.startswith("visual") for name in after)
    for name, weight in after.items():
        key = next(k for k in before if k.endswith(name.removeprefix("model.")))
        moved = not torch.equal(before[key], weight)
        assert moved != ("visual." in name), name
