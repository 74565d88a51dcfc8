"""A folder of the user's own documents: scores as from pages, and one clear line for what is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsemm.configs import InputError, read
from sparsemm.documents import make_page, make_running_page
from sparsemm.heads import HeadScores
from sparsemm.heads.chosen import choose
from sparsemm.heads.identify import run
from sparsemm.heads.sources import FIRST_SEED, from_folder
from tests.heads.test_probe import OPTIONS


def test_a_folder_gives_the_scores_of_its_documents(tmp_path: Path) -> None:
    pages = [make_page(FIRST_SEED + index, tokens=48) for index in range(3)]
    table = {}
    for index, page in enumerate(pages):
        page.image.save(tmp_path / f"{index}.png")
        words = [word for line in page.lines for word in line]
        table[f"{index}.png"] = [{"text": word.text, "box": list(word.box)} for word in words]
    (tmp_path / "boxes.json").write_text(json.dumps(table), encoding="utf-8")
    options = {
        **OPTIONS,
        "n": 3,
        "kinds": ["form"],
        "tokens": 48,
        "rule": "paper",
        "model": read("model", "tiny"),
    }
    drawn = HeadScores.load(run({**options, "output": str(tmp_path / "drawn.safetensors")}))
    read_in = {**options, "documents": str(tmp_path), "output": str(tmp_path / "read.safetensors")}
    scanned = HeadScores.load(run(read_in))
    np.testing.assert_array_equal(scanned.hits, drawn.hits)
    assert len(scanned.card["documents"]) == 16
    assert "seeds" not in scanned.card
    fewer = HeadScores.load(run({**read_in, "n": 2}))
    np.testing.assert_array_equal(fewer.hits, drawn.hits[:2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no boxes.json in it"),
        ("{", "boxes.json is no JSON: Expecting"),
        ([], 'must hold {"picture.png"'),
        ({"a.png": "text"}, "a.png must have a list of regions, got str"),
        (
            {"a.png": [{"text": "x"}]},
            'a.png: a region is {"text": "…", "box": [left, top, right, bottom]}, got',
        ),
        ({"a.png": [{"text": " ", "box": [0, 0, 1, 1]}]}, "a.png: a region is"),
        ({"a.png": [{"text": "x", "box": [2, 0, 1, 1]}]}, "a.png: a region is"),
        ({"a.png": [{"text": "x", "box": [0, 0, "1", 1]}]}, "a.png: a region is"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path, content: Any, message: str) -> None:
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "boxes.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        from_folder(tmp_path, 5)
    assert message in str(caught.value)


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    regions = {"a.png": [{"text": "x", "box": [0, 0, 1, 1]}]}
    (tmp_path / "boxes.json").write_text(json.dumps(regions), encoding="utf-8")
    [scan], _ = from_folder(tmp_path, 5)
    with pytest.raises(InputError, match=r"a\.png cannot be read: No such file"):
        _ = scan.image
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(InputError, match=r"a\.png cannot be read: it is no picture"):
        _ = scan.image


def test_running_text_is_drawn_when_it_is_asked_for() -> None:
    chosen = choose({**OPTIONS, "documents": "running", "size": [256, 192], "n": 1000, "seed": 4})
    assert len(chosen.documents) == 1000
    [one, two] = chosen.documents[7:9]
    assert one.image.size == (256, 192)
    assert two.text == chosen.documents[8].text == make_running_page(FIRST_SEED + 12, size=(256, 192)).text
    assert chosen.facts["seeds"] == [FIRST_SEED + 4, FIRST_SEED + 1003]
    assert set(chosen.facts["text"]) == {"file", "version", "sha256"}
    assert choose({**OPTIONS, "documents": "running", "size": [256, 192], "n": 9, "seed": 4}).identity == (
        chosen.identity
    )
    assert choose({**OPTIONS, "documents": "running", "size": [256, 208], "n": 9, "seed": 4}).identity != (
        chosen.identity
    )


def test_the_default_is_what_it_was() -> None:
    """Pages of the same seeds, the same card, and a half-done run of before is gone on with."""
    chosen = choose({**OPTIONS, "n": 2, "tokens": 48})
    assert [document.text for document in chosen.documents] == [
        make_page(FIRST_SEED + index, kind=kind, tokens=48).text
        for index, kind in enumerate(("form", "receipt"))
    ]
    assert chosen.identity == {
        "kinds": ["form", "receipt", "table"],
        "tokens": 48,
        "documents_version": 2,
        "seed": 0,
    }
    assert chosen.facts == {
        "seeds": [FIRST_SEED, FIRST_SEED + 1],
        "kinds": ["form", "receipt"],
        "tokens": [48],
        "documents_version": 2,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"documents": "runing"}, "documents=runing: there is no such folder or file; did you mean running?"),
        ({"documents": None}, "known: pages, running, synthdog, or a folder or .parquet file"),
        ({"documents": "running", "size": [640]}, r"size must be \[width, height\] in pixels, got \[640\]"),
        ({"documents": "running", "size": [640, "a"]}, "size must be"),
        ({"documents": "running", "size": [640, 64]}, "at least 128 pixels to a side, got"),
        ({"n": 0}, "n must be a positive integer, got 0"),
        ({"rule": "best"}, "unknown rule 'best'; known: paper, aligned"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"output": "heads.json"}, "output must end with .safetensors, got 'heads.json'"),
    ],
)
def test_wrong_options_are_refused_before_the_model_is_loaded(options: dict[str, Any], message: str) -> None:
    model = {**read("model", "tiny"), "pretrained": "never_looked_for"}
    with pytest.raises(InputError, match=message):
        run({**OPTIONS, "model": model, "output": "heads.safetensors", **options})


def test_a_folder_with_nothing_in_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no boxes\.json in it, and no \.parquet"):
        choose({**OPTIONS, "documents": str(tmp_path)})
