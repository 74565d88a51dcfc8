"""Pictures that are none, or not whole: their document fails, and whoever shows them says why.

A fault more is a row more of `PICTURES`.
"""

import html
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sparsemm import cli
from sparsemm.configs import InputError
from sparsemm.documents import make_page
from sparsemm.evaluation.embedded import embedded
from sparsemm.evaluation.model import SparseMMChat
from sparsemm.evaluation.requests import load_documents
from sparsemm.report.pictures import documents_of
from tests.evaluation.official_documents import write
from tests.evaluation.provoking import one_line, sweep


def encoded(format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    make_page(7, tokens=32).image.save(buffer, format=format, **options)
    return buffer.getvalue()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def of_another_size() -> bytes:
    """A PNG whose header says that it is far larger than what is there."""
    whole = encoded("PNG")
    header = b"IHDR" + (3000).to_bytes(4, "big") + (3000).to_bytes(4, "big") + whole[24:29]
    return whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]


class Fault(NamedTuple):
    """What stands in the place of a picture, and what must be said of it."""

    make: Callable[[], bytes]
    said: str


PICTURES: dict[str, Fault] = {
    "half a PNG": Fault(lambda: half(encoded("PNG")), "image file is truncated"),
    "a PNG without its end": Fault(lambda: encoded("PNG")[:-80], "image file is truncated"),
    "half a JPEG": Fault(lambda: half(encoded("JPEG")), "image file is truncated"),
    "half a WebP": Fault(lambda: half(encoded("WEBP")), ""),
    "half a TIFF": Fault(lambda: half(encoded("TIFF")), ""),
    "half a BMP": Fault(lambda: half(encoded("BMP")), "image file is truncated"),
    "another size": Fault(of_another_size, "image file is truncated"),
    "a PPM with letters": Fault(lambda: b"P6\n60 4x\n255\n" + bytes(720), "invalid literal for int"),
    "a text": Fault(lambda: b"no picture", ""),
    "nothing": Fault(lambda: b"", ""),
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Documents of docvqa_val, the first ones with a fault each, the last one whole."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data.parquet"
    write("docvqa_val", file)
    table = pq.read_table(file)
    [row, *_] = table.to_pylist()
    rows = [{**row, "image": {"bytes": fault.make(), "path": None}} for fault in PICTURES.values()]
    pq.write_table(pa.Table.from_pylist([*rows, row], schema=table.schema), file)
    return file


def test_a_sweep_and_its_report(data: Path, untrained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    last = len(PICTURES)
    options = ["task=[docvqa_val]", f"tasks.docvqa_val.data_files={data}", f"limit={last + 1}"]
    assert cli.main(sweep(untrained, *options)) == 1
    shown = capfd.readouterr()
    assert f"{last} documents could not be answered" in shown.out
    assert "Traceback" not in shown.err
    samples: Any = pd.read_parquet("results/sweep/samples.parquet").set_index("doc_id")
    for at, (name, fault) in enumerate(PICTURES.items()):
        assert samples.loc[at, "error"].str.contains(fault.said, regex=False).all(), name
        assert (samples.loc[at, "response"] == "").all(), name
    assert samples.loc[last, "error"].isna().all()

    assert cli.main(["report", "results/sweep", "-o", "page.html", "--data", f"docvqa_val={data}"]) == 0
    page = html.unescape(Path("page.html").read_text(encoding="utf-8"))
    assert f"{last} of {last + 1} pictures of docvqa_val cannot be shown, the first of document 0: " in page
    assert "are not those that the sweep saw" not in page
    documents = documents_of("docvqa_val", {}, str(data), last + 1, 10**6, Path("results/sweep"))
    for document, (name, fault) in zip(documents, PICTURES.items(), strict=False):
        assert (document.picture, document.question != "") == ("", True), name
        assert fault.said in document.problem, name
        assert document.problem, name
    assert documents[last].picture
    assert not documents[last].problem


@pytest.mark.parametrize("name", PICTURES)
def test_a_file_that_was_named(name: str, tmp_path: Path, monkeypatch, capfd) -> None:
    """By doctor, and in a folder of documents for heads: one line that names it."""
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(PICTURES[name].make())
    Path("boxes.json").write_text(json.dumps({"a.png": [{"text": "A", "box": [0, 0, 9, 9]}]}))
    for arguments in (["doctor", "image=a.png"], ["heads", "documents=.", "n=1", "output=own.safetensors"]):
        assert cli.main(arguments) == 2
        line = one_line(capfd.readouterr().err)
        assert "a.png cannot be read: " in line
        assert PICTURES[name].said in line


def test_lmms_eval_names_the_document(data: Path, untrained: Path) -> None:
    [first, *_] = load_documents("docvqa_val", 1, 4, {"metric": "anls", "data_files": str(data)})
    chat = SparseMMChat(str(untrained), device="cpu")
    with pytest.raises(InputError, match="document 0 cannot be read: image file is truncated"):
        chat._conversation(first)


def test_whole_pictures_are_read(tmp_path: Path) -> None:
    """The same test says nothing against any of the kinds when they are whole."""
    for format in ("PNG", "JPEG", "WEBP", "TIFF", "BMP"):
        Image.open(io.BytesIO(encoded(format))).load()


def test_pictures_in_lists_and_structures_are_read_from_their_bytes_alone(tmp_path: Path) -> None:
    own, foreign = encoded("PNG"), tmp_path / "private.png"
    foreign.write_bytes(own)
    here, there = {"bytes": own, "path": None}, {"bytes": None, "path": str(foreign)}
    kinds = datasets.Features(
        {
            "alone": datasets.Image(),
            "listed": datasets.List(datasets.Image()),
            "large": datasets.LargeList(
                {"picture": datasets.Image(mode="L"), "text": datasets.Value("string")}
            ),
            "inside": {"picture": datasets.Image(), "deep": {"pictures": datasets.List(datasets.Image())}},
            "text": datasets.Value("string"),
            "kept": datasets.Image(decode=False),
        }
    )

    def row(one: Any) -> dict[str, Any]:
        large, inside = [{"picture": one, "text": "a"}], {"picture": here, "deep": {"pictures": [one]}}
        return {
            "alone": one,
            "listed": [here, one],
            "large": large,
            "inside": inside,
            "text": "t",
            "kept": here,
        }

    rows = [
        row(here),
        *({**row(here), name: row(there)[name]} for name in ("alone", "listed", "large", "inside")),
    ]
    rows.append({**row(here), "listed": None, "inside": {"picture": None, "deep": None}})
    data = datasets.Dataset.from_list(rows, features=kinds)
    read = embedded(data)
    assert read[0]["listed"][1].size == read[0]["alone"].size == read[0]["inside"]["deep"]["pictures"][0].size
    assert (read[0]["large"][0]["picture"].mode, read[0]["large"][0]["text"]) == ("L", "a")
    assert read[0]["kept"]["bytes"] == own
    assert read[5]["listed"] is None
    assert read[5]["inside"]["picture"] is None
    for number in range(1, 5):
        with pytest.raises(ValueError, match=r"name a file in the place of a picture \('.*private.png'\)"):
            read[number]
