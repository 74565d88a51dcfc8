"""A folder of the user's own documents: scores as from pages, and one clear line for what is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsemm.configs import InputError, read
from sparsemm.documents import make_page
from sparsemm.heads import HeadScores
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
