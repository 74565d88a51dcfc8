"""The probe against eager attention's own weights; scores against a slow, independent computation."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparsemm.configs import read, shipped
from sparsemm.documents import Page, Word, make_page
from sparsemm.heads import HeadScores
from sparsemm.heads.identify import identify, run, score_batch, top_heads
from sparsemm.heads.probe import probe
from sparsemm.heads.rules import RULES, aligned, paper
from sparsemm.models.loading import Checkpoint
from sparsemm.tiny import CHECKPOINT, OCR_PROMPT


@pytest.fixture(scope="module")
def reader():
    model = AutoModelForImageTextToText.from_pretrained(
        CHECKPOINT, dtype=torch.float32, attn_implementation={"text_config": "sparsemm"}
    )
    processor = AutoProcessor.from_pretrained(CHECKPOINT)
    return Checkpoint(model.eval(), processor, model.device, model.dtype)


OPTIONS = {
    **{
        "n": 4,
        "seed": 0,
        "rule": "aligned",
        "views": "tiles",
        "documents": "pages",
        "size": [960, 1280],
        "batch_size": 9,
        "tokens": 144,
    },
    "kinds": ["form", "receipt", "table"],
}
PAGES = [make_page(seed, tokens=tokens) for seed, tokens in ((11, 32), (12, 64))]


def batch_inputs(processor, pages):
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": OCR_PROMPT}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    images = [page.image for page in pages]
    return processor(text=[text] * len(pages), images=images, padding=True, return_tensors="pt")


def test_probe_equals_eager_attention_on_a_padded_batch(reader):
    model, processor = reader.model, reader.processor
    inputs = batch_inputs(processor, PAGES)
    assert not inputs["attention_mask"].all()
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    with torch.inference_mode(), probe(model) as steps:
        tokens = model.generate(**inputs, **options)
    assert model.config.text_config._attn_implementation == "sparsemm"  # as it was before
    model.set_attn_implementation({"text_config": "eager"})
    with torch.inference_mode():
        eager = model.generate(**inputs, **options, output_attentions=True, return_dict_in_generate=True)
    model.set_attn_implementation({"text_config": "sparsemm"})
    assert torch.equal(tokens, eager.sequences)
    assert len(steps) == len(eager.attentions) == 12
    for ours, theirs in zip(steps, eager.attentions, strict=True):
        for looked, weights in zip(ours, theirs, strict=True):
            last = weights[:, :, -1]
            # two keys can tie within float error: ours must be as attended as the largest
            torch.testing.assert_close(
                last.gather(-1, looked[..., None])[..., 0], last.max(-1).values, rtol=0, atol=1e-6
            )


@pytest.mark.parametrize("rule", sorted(RULES))
def test_scores_equal_a_slow_eager_computation(reader, rule):
    """One page at a time, eager attention matrices, plain loops."""
    model, processor = reader.model, reader.processor
    fast = score_batch(reader, PAGES, OCR_PROMPT, rule)
    model.set_attn_implementation({"text_config": "eager"})
    for page, hits in zip(PAGES, fast, strict=True):
        inputs = batch_inputs(processor, [page])
        with torch.inference_mode():
            out = model.generate(
                **inputs,
                max_new_tokens=1024,
                do_sample=False,
                output_attentions=True,
                return_dict_in_generate=True,
            )
        new = out.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        tokens = [processor.tokenizer.decode([token]) for token in new if token > 6]
        regions = []
        for line in page.lines:
            for word in line:
                left, top, right, bottom = word.box
                columns = page.image.width // 16
                regions.append(
                    {
                        1 + y // 16 * columns + x // 16  # behind <|vision_start|>
                        for y in range(top, bottom)
                        for x in range(left, right)
                    }
                )
        expected = np.zeros_like(hits)
        for step, region in RULES[rule](tokens, page):
            for layer, weights in enumerate(out.attentions[step]):
                for head in range(weights.shape[1]):
                    if int(weights[0, head, -1].argmax()) in regions[region]:
                        expected[layer, head] += 1 / len(regions[region])
        np.testing.assert_allclose(hits, expected, atol=1e-5)
        if rule == "aligned":
            assert hits.any()
    model.set_attn_implementation({"text_config": "sparsemm"})


def page_of(*lines):
    words = tuple(tuple(Word(text, (0, 0, 1, 1), ()) for text in line.split()) for line in lines)
    return Page(PAGES[0].image, words, (), "form", "none", 0, 32)


def test_paper_rule_counts_unique_strings_only():
    page = page_of("TOTAL 42", "TAX 42")
    assert paper(["TOTAL", " 42", "TAX", "", "T"], page) == [(0, 0), (2, 2)]


def test_aligned_rule_follows_the_alignment_over_errors():
    page = page_of("AB CD", "AB")
    # the second word is misread, the first word's text stands twice: the alignment tells which is which
    assert aligned(["A", "B", " ", "X", "D", "\n", "A", "B"], page) == [
        (0, 0),
        (1, 0),
        (4, 1),
        (6, 2),
        (7, 2),
    ]
    # a token of several characters counts when all of them are right and in one region
    assert aligned(["AB", " CD", "\nA", "X"], page) == [(0, 0), (1, 1), (2, 2)]
    assert aligned(["B C"], page) == []


def test_identify_checks_its_input(reader):
    with pytest.raises(ValueError, match="known: paper, aligned"):
        identify(reader, PAGES, prompt=OCR_PROMPT, rule="best")
    with pytest.raises(ValueError, match="at least one document"):
        identify(reader, [], prompt=OCR_PROMPT)


def test_identify_is_deterministic_and_batch_independent(reader):
    one = identify(reader, PAGES, prompt=OCR_PROMPT, batch_size=1)
    two = identify(reader, PAGES, prompt=OCR_PROMPT, batch_size=2, card={"model": "tiny"})
    np.testing.assert_array_equal(one.hits, two.hits)
    assert two.card["n"] == 2
    assert two.card["rule"] == "aligned"
    assert top_heads(two.scores, 1) == [
        "{}-{}".format(*np.unravel_index(two.scores.argmax(), two.scores.shape))
    ]


def test_the_verb_writes_a_loadable_file_that_resembles_the_committed_one(tmp_path, capsys):
    """Few pages rank the heads as the committed 1,000 do."""
    options = {**OPTIONS, "n": 9, "seed": 5000}
    path = run({"model": read("model", "tiny"), "output": str(tmp_path / "tiny.safetensors"), **options})
    assert "9 documents" in capsys.readouterr().out
    few, committed = HeadScores.load(path), HeadScores.load(shipped("results/head_scores/tiny.safetensors"))
    assert few.card["fingerprint"] == committed.card["fingerprint"]
    assert committed.card["n"] == len(committed.hits) == 1000
    assert committed.card["kinds"] == ["form", "receipt", "table"]
    assert set(top_heads(few.scores, 4)) <= set(top_heads(committed.scores, 10))
    assert pd.read_csv(path.with_suffix(".top_share.csv"))["score_share"].iloc[-1] == 1


def test_an_interrupted_run_goes_on_and_ends_with_the_same_file(tmp_path, monkeypatch):
    options = {**OPTIONS, "n": 6, "batch_size": 2, "tokens": 48, "model": read("model", "tiny")}
    whole = run({**options, "output": str(tmp_path / "whole.safetensors")})
    asked: list[int] = []

    def until(limit):
        def counted(checkpoint, pages, *options):
            if len(asked) == limit:
                raise KeyboardInterrupt
            asked.extend(page.seed for page in pages)
            return score_batch(checkpoint, pages, *options)

        return counted

    cut = {**options, "output": str(tmp_path / "cut.safetensors")}
    monkeypatch.setattr("sparsemm.heads.identify.score_batch", until(4))
    with pytest.raises(KeyboardInterrupt):
        run(cut)
    assert not (tmp_path / "cut.safetensors").exists()
    monkeypatch.setattr("sparsemm.heads.identify.score_batch", until(None))
    resumed = run(cut)
    assert asked == list(range(2_000_000, 2_000_006))  # no document twice
    assert resumed.read_bytes() == whole.read_bytes()
    assert not list(tmp_path.glob("*.partial"))
    monkeypatch.setattr("sparsemm.heads.identify.score_batch", until(8))
    with pytest.raises(KeyboardInterrupt):
        run({**cut, "seed": 70})
    monkeypatch.setattr("sparsemm.heads.identify.score_batch", until(None))
    run({**cut, "seed": 80})
    assert asked[8:] == list(range(2_000_080, 2_000_086))  # what other documents left is not used


def test_kinds_of_pages_must_be_named(tmp_path):
    options = {**OPTIONS, "model": read("model", "tiny"), "output": str(tmp_path / "tiny.safetensors")}
    with pytest.raises(ValueError, match="no kind of page"):
        run({**options, "kinds": []})
    with pytest.raises(ValueError, match="unknown kind of page 'novel'"):
        run({**options, "kinds": ["novel"]})
