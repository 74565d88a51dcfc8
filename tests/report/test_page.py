"""The page as text: whole, alone, and nothing of its data read as HTML."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sparsemm import cli
from sparsemm.report import PageOptions, write_report
from sparsemm.report.escaping import script_json
from tests.report.conftest import HOSTILE_METHOD, HOSTILE_TASK, HOSTILE_TEXTS

ROOT = Path(__file__).parents[2]


class Elements(HTMLParser):
    """Names and attributes of all elements, and the contents of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.inside: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.found.append((tag, attributes))
        if tag == "script":
            self.inside = attributes.get("id") or f"code{len(self.scripts)}"
            self.scripts[self.inside] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside is not None:
            self.scripts[self.inside] += data


@pytest.mark.parametrize(
    "text", [*HOSTILE_TEXTS, HOSTILE_TASK, HOSTILE_METHOD, "\ud800 alone", '\\u003c \\ "']
)
def test_json_in_a_script_says_the_same_and_cannot_end_it(text):
    written = script_json({"text": text, text: [text]})
    assert not re.search("[<>&\u2028\u2029]", written)
    assert json.loads(written) == {"text": text, text: [text]}
    written.encode("utf-8")


def test_numbers_that_are_no_json_are_refused():
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json([float("nan")])


@pytest.fixture
def page(results, tmp_path) -> str:
    return write_report(results, tmp_path / "report.html").read_text(encoding="utf-8")


def test_no_text_of_the_data_becomes_an_element(page):
    elements = Elements()
    elements.feed(page)
    names = [name for name, _ in elements.found]
    assert (
        names.count("script") == 2 + 2 + 2 + 2
    )  # data, allocations, samples and pictures of two tasks, code
    assert names.count("img") == 1
    assert not any(name.startswith("on") for _, attributes in elements.found for name in attributes)
    assert not any(
        "href" in held and held["href"] is not None and not held["href"].startswith(("#", "data:,"))
        for _, held in elements.found
    )
    assert not any((held.get("src") or "").strip() for _, held in elements.found)
    data = json.loads(elements.scripts["data"])
    assert HOSTILE_TASK in [group["name"] for group in data["groups"]]
    assert HOSTILE_METHOD in [method["name"] for method in data["methods"]]
    samples = json.loads(elements.scripts["samples-0"] + "")
    assert any(HOSTILE_TEXTS[1] in text for held in samples["answers"] for text, *_ in held)


def test_the_same_results_give_the_same_page(results, tmp_path, page):
    assert write_report(results, tmp_path / "again.html").read_text(encoding="utf-8") == page


def test_provenance_names_files_by_their_hashes(page, results):
    import hashlib

    for name in ("cells.csv", "samples.parquet", "run.json"):
        assert hashlib.sha256((results / name).read_bytes()).hexdigest() in page


def test_the_page_says_what_is_missing(results, tmp_path):
    for name in ("samples.parquet", "allocations.parquet", "comparisons.csv"):
        (results / name).unlink()
    text = write_report(results, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "there is no samples.parquet" in text
    assert "What each head kept was not recorded" in text
    assert "No pairs of methods" in text
    assert "No decode benchmark was given" in text


def test_on_the_command_line(results, tmp_path, capsys):
    output = tmp_path / "report.html"
    output.write_text("old")
    decode = ROOT / "results" / "efficiency" / "decode.csv"
    assert cli.main(["report", str(results), "-o", str(output), "--efficiency", str(decode)]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    text = output.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "Rows of decode.csv" in text
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    assert cli.main(["report", str(results)]) == 0
    assert (results / "report.html").is_file()


WRONG = [
    (["nowhere"], "no such folder: nowhere"),
    (["."], "no results at ."),
    (["{results}", "-o", "missing/report.html"], "no such folder: missing; make it first"),
    (["{results}", "-o", "."], ". is a folder"),
    (["{results}", "--efficiency", "none.csv"], "no decode times at none.csv"),
    (["{results}", "--documents", "0"], "--documents must be a positive integer"),
    (["{results}", "--data", "docvqa_val"], "--data must be TASK=FILES, got 'docvqa_val'"),
    (["{results}", "--data", "docvqa=a"], "there is no task 'docvqa' in"),
    (["{results}", "--data", "docvqa_val=none.parquet"], "none.parquet cannot be used: No such file"),
    (["{results}", "--port", "80"], "--port belongs to --serve"),
    (["{results}", "--serve", "-o", "a.html"], "--serve writes no file"),
    (["{results}", "--serve", "--port", "99999"], "--port must be between 0 and 65535"),
    (["nowhere", "--serve"], "no such folder: nowhere"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_what_is_wrong_is_said_in_one_line(results, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *(one.format(results=results) for one in arguments)]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize("name", ["cells.csv", "comparisons.csv", "samples.parquet", "allocations.parquet"])
def test_a_damaged_table_is_named_and_an_old_report_stays(results, tmp_path, capsys, name):
    output = tmp_path / "report.html"
    output.write_text("old")
    (results / name).write_bytes(b"\xff\xfe{{{\x00" * 9)
    assert cli.main(["report", str(results), "-o", str(output)]) == 2
    shown = capsys.readouterr().err
    assert name in shown
    assert shown.count("\n") == 1
    assert output.read_text() == "old"


def test_a_damaged_record_of_the_run_is_a_notice(results, tmp_path, capsys):
    (results / "run.json").write_bytes(b"\xff\xfe{{{\x00" * 9)
    output = tmp_path / "report.html"
    assert cli.main(["report", str(results), "-o", str(output)]) == 0
    assert capsys.readouterr().err == ""
    assert "run.json" in output.read_text(encoding="utf-8")


def test_options_default():
    assert PageOptions.of(None, None, ["a=b=c"]) == PageOptions(data={"a": "b=c"})
