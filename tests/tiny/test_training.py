"""Training batches are what the model meets in use; training resumes as if it had never stopped."""

import csv
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparsemm.configs import InputError, read
from sparsemm.documents import GRIDS, KINDS, make_page
from sparsemm.tiny import OCR_PROMPT, PRESETS, build_model
from sparsemm.tiny.__main__ import configuration
from sparsemm.tiny.attention import sectioned
from sparsemm.tiny.batches import IGNORE, Packer, Sections
from sparsemm.tiny.glyphs import GLYPHS
from sparsemm.tiny.growth import layer_places, start_from
from sparsemm.tiny.reader import Reader
from sparsemm.tiny.recipe import Stage, TrainConfig, learning_rate
from sparsemm.tiny.training import train


def pages(n, tokens=32, kind="form"):
    options = {"kind": kind, "split": "train", "tokens": tokens, "grid": GRIDS[tokens][0]}
    return [make_page(seed, **options) for seed in range(n)]


@pytest.mark.parametrize("kind", ["form", "sign"])
def test_patches_are_the_processors(untrained, kind):
    processor = AutoProcessor.from_pretrained(untrained)
    page = make_page(0, kind=kind, tokens=96)
    batch = Packer().pack_vision([page])
    inputs = processor.image_processor(images=[page.image], return_tensors="pt")
    torch.testing.assert_close(batch.pixels[0], inputs["pixel_values"], rtol=0, atol=1e-6)
    assert inputs["image_grid_thw"].tolist() == [[1, 2 * batch.grid[0], 2 * batch.grid[1]]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_is_the_question_asked_alone(untrained, kind):
    """Logits of the answer's characters inside the packed sequence equal those of an ordinary forward."""
    processor = AutoProcessor.from_pretrained(untrained)
    model: Any = AutoModelForImageTextToText.from_pretrained(untrained).eval()
    some = pages(3, 96, kind)
    batch = Packer().pack(some, lookups=3, transcribe=True, order=np.random.default_rng(0))
    reader = Reader(model)
    stage = Stage(1, 1, (96,), 1.0, 1.0, lookups=3, transcribe=1.0)
    captured = []
    handle = model.lm_head.register_forward_hook(lambda module, args, out: captured.append(out))
    with torch.no_grad():
        reader.losses(batch, stage)
    handle.remove()
    assert batch.text is not None
    weights = batch.text.weights
    packed = torch.full((*weights.shape, captured[0].shape[-1]), torch.nan)
    packed[weights > 0] = captured[0]
    model.set_attn_implementation("sdpa")
    order = np.random.default_rng(0)
    for row, page in enumerate(some):
        short = [question for question in page.questions if question.kind != "say"]
        chosen = [short[index] for index in order.permutation(len(short))[:3]]
        starts = [batch.text.sections.prefix + i * batch.text.sections.question for i in range(len(chosen))]
        asked: list[tuple[int, str, str]] = [
            (start, q.text, q.answer) for start, q in zip(starts, chosen, strict=True)
        ]
        said = next((q for q in page.questions if q.kind == "say"), None)
        question, answer = (said.text, said.answer) if said else (OCR_PROMPT, page.text)
        asked.append((weights.shape[1] - batch.text.sections.transcription, question, answer))
        for start, question, answer in asked:
            content = [{"type": "image"}, {"type": "text", "text": question}]
            chat = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
            text = processor.apply_chat_template(chat, tokenize=False)
            inputs = processor(text=[text], images=[page.image], return_tensors="pt")
            with torch.no_grad():
                alone = model(**inputs).logits[0]
            length = len(processor.tokenizer.tokenize(question)) + 1 + len(answer)
            end = start + length
            answered = packed[row, end - len(answer) - 1 : end]
            torch.testing.assert_close(answered, alone[-2 - len(answer) : -1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("sections", [Sections(5, 3, 4, 6), Sections(5, 0, 0, 6), Sections(4, 2, 3, 0)])
def test_sections_are_a_masked_attention(sections):
    """Outputs and gradients equal dense attention under the mask that the sections stand for."""
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, sections.length, 8, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    )
    branch = torch.tensor(
        [0] * sections.prefix
        + [1 + number for number in range(sections.questions) for _ in range(sections.question)]
        + [99] * sections.transcription
    )
    sees = ((branch[:, None] == branch) | (branch == 0)).tril()
    dense = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=sees, scale=1.0, enable_gqa=True
    )
    out = sectioned(query, key, value, sections)
    torch.testing.assert_close(out, dense)
    grad = torch.randn_like(out)
    for ours, theirs in zip(
        torch.autograd.grad(out, (query, key, value), grad),
        torch.autograd.grad(dense, (query, key, value), grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_labels_are_the_next_token_of_the_same_branch():
    some = pages(4)
    text = Packer().pack(some, lookups=2, transcribe=True, order=np.random.default_rng(1)).text
    assert text is not None
    sections = text.sections
    assert text.input_ids.shape[1] == sections.length
    middle = sections.prefix + sections.questions * sections.question
    ends = {*range(sections.prefix - 1, middle, sections.question), middle - 1, sections.length - 1}
    for row in range(len(some)):
        for place in range(sections.length):
            label = text.labels[row, place]
            assert (label == IGNORE) == (text.weights[row, place] == 0)
            if label != IGNORE:
                assert label == text.input_ids[row, place + 1]
                assert place not in ends, "a branch predicts the next branch's first token"


def test_glyph_labels_name_the_characters_of_the_page():
    names = {index: character for character, index in GLYPHS.items()}
    for seed in range(12):
        page = make_page(seed, split="train", tokens=64, dense=True)
        labels = Packer().pack_vision([page]).glyphs[0]
        rows = labels.view(len(page.lines), -1)
        for line, row in zip(page.lines, rows.tolist(), strict=True):
            assert "".join(names[label] for label in row if label) == "".join(word.text for word in line)


@pytest.fixture
def narrow(monkeypatch):
    """The preset with fewer and narrower layers: a step takes a tenth of the time, by the same code."""
    fewer = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    fewer |= {"num_key_value_heads": 2, "vision_width": 48, "vision_heads": 2}
    monkeypatch.setitem(PRESETS, "tiny", dataclasses.replace(PRESETS["tiny"], **fewer))


SHORT = (
    Stage(3, 4, (32,), 1e-3, 1e-4, auxiliary=1.0, read=False),
    Stage(4, 4, (32, 48), 1e-3, 1e-4, lookups=2, transcribe=0.5, auxiliary=0.5),
)


def test_resumed_training_equals_uninterrupted(tmp_path, narrow):
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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Reader, "losses", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(cut)
    train(cut)
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name
    with (tmp_path / "cut" / "log.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(7))


def test_a_few_steps_lower_the_loss(tmp_path, narrow):
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


def test_frozen_tower_does_not_move(tmp_path, narrow):
    stages = [Stage(2, 4, (32,), 1e-2, 1e-2, lookups=2, transcribe=1.0, train_vision=False)]
    before = Reader(build_model()).state_dict()
    train(TrainConfig(output=str(tmp_path), stages=stages, workers=0, evaluate=0))
    after = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith("model.visual") or name.startswith("visual") for name in after)
    for name, weight in after.items():
        key = next(k for k in before if k.endswith(name.removeprefix("model.")))
        moved = not torch.equal(before[key], weight)
        assert moved != ("visual." in name), name


def test_a_deeper_model_starts_as_the_one_it_grew_from(tmp_path):
    """The grown model gives the former's outputs exactly, and the former's card stays on record."""
    former = TrainConfig(output=str(tmp_path / "former"), stages=[SHORT[0]], workers=0, evaluate=0)
    shallow = dataclasses.replace(PRESETS["tiny"], num_hidden_layers=5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", shallow)
        train(former)
    (tmp_path / "former" / "training.json").write_text('{"seconds": 7}', encoding="utf-8")
    model, before = build_model(), AutoModelForImageTextToText.from_pretrained(former.output)
    start_from(model, former.output)
    page = make_page(0, tokens=32)
    processor = AutoProcessor.from_pretrained(former.output)
    inputs = processor(
        text=["<|vision_start|><|image_pad|><|vision_end|>"], images=[page.image], return_tensors="pt"
    )
    with torch.no_grad():
        ours, theirs = model.eval()(**inputs).logits, before.eval()(**inputs).logits
    known = len(processor.tokenizer)  # the embedding's last rows belong to no token
    torch.testing.assert_close(ours[..., :known], theirs[..., :known], rtol=0, atol=1e-5)
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_layers_are_added_evenly():
    assert layer_places(6, 8) == [0, 1, None, 2, 3, None, 4, 5]
    assert layer_places(4, 4) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="cannot start from"):
        layer_places(8, 6)
    with pytest.raises(ValueError, match="at most double"):
        layer_places(2, 6)


def test_a_model_of_other_widths_cannot_be_started_from(untrained):
    with pytest.raises(ValueError, match="cannot be started from"):
        start_from(build_model("small"), untrained)


def test_training_in_pieces_equals_training_at_once(tmp_path, capsys, narrow):
    config = TrainConfig(output=str(tmp_path / "whole"), stages=list(SHORT), workers=0, evaluate=0)
    train(config)
    pieces = dataclasses.replace(config, output=str(tmp_path / "pieces"), max_seconds=0.0)
    for step in range(1, 7):
        train(pieces)
        assert f"stopped after {step} of 7 steps" in capsys.readouterr().out
    train(pieces)
    whole, apart = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "pieces"))
    for name, weight in whole.items():
        assert torch.equal(weight, apart[name]), name


def test_the_bare_command_reads_a_preset():
    config = configuration(["preset=small", "device=cuda", "max_seconds=540"])
    assert (config.preset, config.output, config.device) == ("small", "outputs/small", "cuda")
    assert config.stages == TrainConfig(output="", stages=read("preset", "small")["stages"]).stages
    assert config.max_seconds == 540
    with pytest.raises(InputError, match="did you mean device"):
        configuration(["devise=cuda"])
    with pytest.raises(InputError, match="unknown preset 'large'"):
        configuration(["preset=large"])


def test_checkpoints_are_stored_in_the_presets_format(tmp_path, monkeypatch):
    """Half the size on disk; training itself goes on in float32."""
    monkeypatch.setitem(PRESETS, "tiny", dataclasses.replace(PRESETS["tiny"], stored=torch.bfloat16))
    config = TrainConfig(output=str(tmp_path), stages=[SHORT[0]], workers=0, evaluate=0)
    train(config)
    weights = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    state = torch.load(tmp_path / "training_state.pt", weights_only=True)
    assert {tensor.dtype for tensor in state["reader"].values()} == {torch.float32}
    opened = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    name = "model.visual.patch_embed.proj.weight"
    torch.testing.assert_close(opened.state_dict()[name], state["reader"][f"model.{name}"].bfloat16().float())


@pytest.mark.parametrize("preset", ["tiny", "small"])
def test_presets_hold_whole_recipes(preset):
    config = configuration([f"preset={preset}"])
    assert build_model(config.preset).num_parameters() * PRESETS[preset].stored.itemsize < 16 * 2**20
    for stage in config.stages:
        assert set(stage.tokens) <= set(GRIDS)
        assert stage.lr >= stage.final_lr
        assert bool(stage.lookups) == stage.read
