"""The committed checkpoint reads unseen pages, and its card says what was measured."""

import json

import pytest

from sparsemm.documents import make_page
from sparsemm.tiny import CHECKPOINT
from sparsemm.tiny.reading import evaluate_reading, score


def test_committed_checkpoint_meets_the_gate():
    [reading] = evaluate_reading(CHECKPOINT, tokens=(96,), fonts=("seen",), n=64)
    assert reading.lines_found >= 0.92
    assert reading.character_error <= 0.03
    assert reading.lookup >= 0.85


def test_card_holds_every_measured_score():
    facts = json.loads((CHECKPOINT / "training.json").read_text(encoding="utf-8"))
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    assert {(r["tokens"], r["font"]) for r in facts["readings"]} == {
        (tokens, font) for tokens in (32, 64, 96, 144) for font in ("seen", "cmtt10")
    }
    for reading in facts["readings"]:
        assert (
            f"| {reading['tokens']} | {reading['font']} | {reading['n']} | {reading['lookup']:.3g} |" in card
        )


def test_checkpoint_is_small():
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 16 * 2**20


def test_scores_are_what_they_say():
    pages = [make_page(1), make_page(2)]
    first, second = (page.text for page in pages)
    lines = len(first.split("\n")) + len(second.split("\n"))
    wrong = second.replace("\n", "X\n", 1)  # one line spoilt by one character
    reading = score(pages, [pages[0].fields[0][1], "?"], [first, wrong], "seen")
    assert reading.lookup == 0.5
    assert reading.transcription == 0.5
    assert reading.lines_found == pytest.approx((lines - 1) / lines)
    assert reading.character_error == pytest.approx(1 / (len(first) + len(second)))
