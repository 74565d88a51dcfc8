"""Rows of SynthDoG's schema in parquet files of our own; and the hub out of reach."""

import io
import json
import os
import subprocess
import sys

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsemm.configs import InputError, read
from sparsemm.documents import make_page
from sparsemm.heads import HeadScores
from sparsemm.heads.chosen import choose
from sparsemm.heads.identify import run
from sparsemm.heads.sources import FIRST_SEED
from sparsemm.heads.synthdog import from_dataset, regions
from tests.heads.test_probe import OPTIONS

PAGES = [make_page(FIRST_SEED + index, tokens=48) for index in range(3)]


def encoded(page):
    target = io.BytesIO()
    page.image.save(target, "PNG")
    return target.getvalue()


def corners(page):
    return [
        {"chunk": word.text, "coord": [[left, top], [right, bottom]]}
        for line in page.lines
        for word in line
        for left, top, right, bottom in [word.box]
    ]


def as_the_hub_has_it(path):
    """With the columns beside them, and the features in the file's metadata, as ``datasets`` writes them."""
    rows = {
        "image": [{"bytes": encoded(page), "path": None} for page in PAGES],
        "ground_truth": [json.dumps({"gt_parse": {"text_sequence": page.text}}) for page in PAGES],
        "2_coord": [corners(page) for page in PAGES],
    }
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    data.to_parquet(path)
    return path


def as_plain_parquet(path):
    """Without any metadata of ``datasets``, the regions as JSON text."""
    rows = {
        "image": [{"bytes": encoded(page)} for page in PAGES],
        "2_coord": [json.dumps(corners(page)) for page in PAGES],
    }
    pq.write_table(pa.table(rows), path)
    return path


@pytest.mark.parametrize("write", [as_the_hub_has_it, as_plain_parquet])
def test_rows_are_read(tmp_path, write):
    path = write(tmp_path / "train-00000.parquet")
    rows = from_dataset(path, 5)
    assert len(rows) == 3
    for row, page in zip(rows, PAGES, strict=True):
        np.testing.assert_array_equal(np.asarray(row.image), np.asarray(page.image))
        words = [word for line in page.lines for word in line]
        assert [(line[0].text, tuple(line[0].box)) for line in row.lines] == [(w.text, w.box) for w in words]
        assert row.text == "\n".join(word.text for word in words)
    assert len(from_dataset(tmp_path, 2)) == 2  # a folder of parquet files


def test_they_give_the_scores_of_their_pages(tmp_path):
    options = {
        **OPTIONS,
        "n": 3,
        "kinds": ["form"],
        "tokens": 48,
        "rule": "paper",
        "model": read("model", "tiny"),
    }
    drawn = HeadScores.load(run({**options, "output": str(tmp_path / "drawn.safetensors")}))
    path = as_the_hub_has_it(tmp_path / "a.parquet")
    read_in = {**options, "documents": str(path), "output": str(tmp_path / "read.safetensors")}
    rows = HeadScores.load(run(read_in))
    np.testing.assert_array_equal(rows.hits, drawn.hits)
    assert len(rows.card["documents"]) == 16
    assert str(tmp_path) not in json.dumps(rows.card)
    one, all_three = (choose({**read_in, "n": n}) for n in (1, 3))
    assert one.identity == all_three.identity  # n may be raised later
    assert one.facts != all_three.facts


def test_corners_and_texts_of_all_kinds():
    given = [
        {"chunk": " The quick ", "coord": [[30, 20.5], [10, 5]]},
        {"chunk": "fox", "coord": [1, 2, 3, 4], "more": 1},
        {"chunk": " ", "coord": [[0, 0], [1, 1]]},
        {"chunk": "thin", "coord": [[5, 5], [5, 9]]},
    ]
    found = [(word.text, word.box) for word in regions(json.dumps(given), "row 0")]
    assert found == [("The quick", (10, 5, 30, 20.5)), ("fox", (1, 2, 3, 4)), ("thin", (5, 5, 6, 9))]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{", "row 7: 2_coord is text but no JSON"),
        (3, "2_coord must be .*, got int"),
        (None, "2_coord must be .*, got NoneType"),
        ([{"chunk": "x"}], "2_coord must be .*, got {'chunk': 'x'}"),
        ([{"chunk": "x", "coord": [[1, 2]]}], "2_coord must be"),
        ([{"chunk": "x", "coord": [[1, 2], [3, float("nan")]]}], "2_coord must be"),
        ([{"chunk": "x", "coord": [[1, 2], [3, "4"]]}], "2_coord must be"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(given, message):
    with pytest.raises(InputError, match=message) as caught:
        regions(given, "row 7")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_such_data_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": ["x"], "text": ["y"]}), path)
    with pytest.raises(InputError, match=r"no column '2_coord' \(it has image, text\)"):
        from_dataset(path, 1)
    pq.write_table(pa.table({"image": [{"bytes": None}], "2_coord": ["[]"]}), path)
    with pytest.raises(InputError, match="row 0: it holds no image"):
        from_dataset(path, 1)
    pq.write_table(pa.table({"image": [{"bytes": b"nothing"}], "2_coord": ["[]"]}), path)
    [row] = from_dataset(path, 1)
    with pytest.raises(InputError, match="row 0: its image cannot be read"):
        _ = row.image
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"a\.parquet cannot be read"):
        from_dataset(path, 1)


def test_the_hub_out_of_reach_gives_one_line_before_the_model_is_loaded(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sparsemm",
        "heads",
        "documents=synthdog",
        "model.pretrained=never_looked_for",
    ]
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=offline)
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert "nnethercott/synthdog-en-detection cannot be reached" in line
    assert "documents=FOLDER" in line
    assert not list(tmp_path.iterdir())
