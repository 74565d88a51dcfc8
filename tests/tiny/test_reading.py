"""The committed checkpoint reads unseen pages, and its card says what was measured."""

import json

import pandas as pd
import pytest

from sparsemm.documents import KINDS, make_page
from sparsemm.tiny import CHECKPOINT
from sparsemm.tiny.reading import (
    Reading,
    evaluate_reading,
    one_of_each_kind,
    transcription_scores,
    write_readings,
)


def gate(readings: list[Reading]) -> dict[str, float]:
    """Means over the kinds of pages, weighted by how many were read."""
    ocr = [reading for reading in readings if reading.asked == "ocr"]
    lookups = [reading for reading in readings if reading.asked in ("value", "key", "total", "cell")]
    return {
        "lines_found": sum(r.lines_found or 0.0 for r in ocr) / len(ocr),
        "character_error": sum(r.character_error or 0.0 for r in ocr) / len(ocr),
        "lookup": sum(r.exact * r.n for r in lookups) / sum(r.n for r in lookups),
    }


def test_committed_checkpoint_meets_the_gate():
    found = gate(evaluate_reading(CHECKPOINT, tokens=(144,), fonts=("seen",), n=32))
    assert found["lines_found"] >= 0.92
    assert found["character_error"] <= 0.03
    assert found["lookup"] >= 0.75


def test_card_holds_every_measured_score():
    facts = json.loads((CHECKPOINT / "training.json").read_text(encoding="utf-8"))
    card = (CHECKPOINT / "README.md").read_text(encoding="utf-8")
    assert {(r["tokens"], r["font"], r["page"]) for r in facts["readings"]} == {
        (tokens, font, kind)
        for tokens in (96, 144, 192, 288)
        for font in ("seen", "cmtt10")
        for kind in KINDS
    }
    for r in facts["readings"]:
        line = f"| {r['tokens']} | {r['font']} | {r['page']} | {r['asked']} | {r['n']} | {r['exact']:.3g} |"
        assert line in card
    for former in facts["started_from"]["readings"]:
        assert f"| {former['tokens']} | {former['font']} | {former['n']} | {former['lookup']:.3g} |" in card


def test_checkpoint_is_small():
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) <= 16 * 2**20


def test_scores_are_what_they_say():
    pages = [make_page(1), make_page(2)]
    first, second = (page.text for page in pages)
    lines = len(first.split("\n")) + len(second.split("\n"))
    wrong = second.replace("\n", "X\n", 1)  # one line spoilt by one character
    scores = transcription_scores(pages, [first, wrong])
    assert scores["exact"] == 0.5
    assert scores["lines_found"] == pytest.approx((lines - 1) / lines)
    assert scores["character_error"] == pytest.approx(1 / (len(first) + len(second)))


def test_a_page_is_asked_one_question_of_each_kind():
    for kind in KINDS:
        page = make_page(3, kind=kind)
        chosen = one_of_each_kind(page)
        assert set(chosen) == {question.kind for question in page.questions}
        assert all(question in page.questions and question.kind == name for name, question in chosen.items())


def test_readings_are_a_table_that_pandas_reads(tmp_path, untrained):
    readings = evaluate_reading(untrained, tokens=(32,), fonts=("seen",), kinds=("form", "sign"), n=2)
    write_readings(tmp_path / "readings.csv", readings)
    table = pd.read_csv(tmp_path / "readings.csv")
    assert table["asked"].tolist() == [reading.asked for reading in readings]
    assert table["n"].tolist() == [reading.n for reading in readings]
    assert table.loc[table["asked"] == "ocr", "character_error"].notna().all()
