"""A large report stays small: two thousand documents with 36 cells, none of whose answers repeat."""

import random
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sparsemm.evaluation.results import write_cell
from sparsemm.report import PageOptions, pictures, write_report
from sparsemm.report.samples import PICTURE_BYTES
from tests.report.browser import launched, opened
from tests.report.conftest import key_of, png

DOCUMENTS = 2000
BUDGETS = (8, 16, 32, 64, 128, 256, 512)
METHODS = ("snapkv", "pyramidkv", "adakv", "sparsemm", "random")
MEGABYTES = 30
SECONDS = 3


def pages(count: int) -> list[Image.Image]:
    """Scans that compress badly: noise over lines of dark pixels."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(count):
        page = rng.integers(200, 255, (288, 256), dtype=np.uint8)
        page[8::16] = rng.integers(0, 255, (18, 256), dtype=np.uint8)
        found.append(Image.fromarray(page).convert("RGB"))
    return found


def folder_with(tmp_path: Path, texts: dict[str, list[str]], images: list[str]) -> Path:
    for name, answers in texts.items():
        method, _, budget = name.partition("@")
        size = float(budget) if budget else None
        row = {
            "model": "m",
            "task": "docvqa_val",
            "metric": "anls",
            "method": method,
            "budget": size,
            "score": 0.5,
        }
        row |= {"n": len(answers), "schema_version": 3}
        scores = [at % 2 for at in range(len(answers))]
        samples = {"doc_id": [*range(len(answers))], "response": answers, "score": scores, "image": images}
        write_cell(tmp_path, name, "g", row, samples)
    return tmp_path


@pytest.mark.slow
def test_two_thousand_documents_and_36_cells(tmp_path):
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(3000)]
    names = ["fullkv", *(f"{method}@{budget}" for method in METHODS for budget in BUDGETS)]
    texts = {name: [" ".join(rng.choices(words, k=15)) for _ in range(DOCUMENTS)] for name in names}
    assert len(texts) == 36
    shown = pages(100)
    data = tmp_path / "data.parquet"
    rows = [{"image": {"bytes": png(image)}, "question": "What?", "answers": ["x"]} for image in shown]
    pd.DataFrame(rows * (DOCUMENTS // len(rows))).to_parquet(data)
    keys = [key_of(image) for image in shown] * (DOCUMENTS // len(shown))
    folder = folder_with(tmp_path / "results", texts, keys)
    output = write_report(folder, tmp_path / "report.html", PageOptions(data={"docvqa_val": str(data)}))
    assert 10e6 < output.stat().st_size < MEGABYTES * 1e6
    with launched() as browser, opened(browser, output) as (page, trouble):
        milliseconds = float(page.evaluate("document.documentElement.dataset.ready"))
        assert (
            page.locator("#sample-picture").evaluate("image => image.decode().then(() => image.naturalWidth)")
            > 100
        )
        assert milliseconds < SECONDS * 1000
        trouble.none(output.as_uri())


def test_pictures_shrink_until_they_fit(tmp_path):
    shown = pages(8)
    data = tmp_path / "data.parquet"
    pd.DataFrame([{"image": png(image), "question": "What?"} for image in shown]).to_parquet(data)
    sizes = {}
    for limit in (PICTURE_BYTES, 100_000, 40_000):
        found = pictures._read((data,), 8, limit)
        assert [one.images[0] for one in found] == [key_of(image) for image in shown]
        sizes[limit] = sum(len(one.picture) for one in found)
        assert sizes[limit] <= limit
    assert len(set(sizes.values())) == 3


def test_answers_that_repeat_are_written_once(tmp_path):
    same = ["the very same answer of some length"] * 200
    few = folder_with(tmp_path / "few", {"fullkv": same}, [""] * 200)
    many = folder_with(
        tmp_path / "many",
        {"fullkv": same, **{f"snapkv@{budget}": same for budget in range(16, 36)}},
        [""] * 200,
    )
    sizes = [write_report(folder, tmp_path / "report.html").stat().st_size for folder in (few, many)]
    assert sizes[1] - sizes[0] < 20 * 2500
