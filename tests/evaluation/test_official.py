"""Every official benchmark end to end: documents, prompts, the sweep, lmms-eval's scores; texts are given."""

import io
import json
import re
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sparsemm import cli
from sparsemm.configs import read
from sparsemm.evaluation import official, respond, tasks
from sparsemm.evaluation.generation import image_key
from sparsemm.evaluation.official import BENCHMARKS
from sparsemm.evaluation.requests import Settings, load_documents
from sparsemm.evaluation.responses import Response
from sparsemm.evaluation.scoring import Scored, score
from sparsemm.evaluation.tables import load_results
from sparsemm.methods import FullKV
from tests.evaluation.official_documents import SCHEMAS, rows_of, write

JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="CIDEr's tokenizer needs Java")
TASKS = [pytest.param(task, marks=JAVA if BENCHMARKS[task].java else ()) for task in SCHEMAS]
GRID = ("method=[fullkv,snapkv]", "budget=[16]", "batch_size=4")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sweep(task: str, untrained: Path, *overrides: str) -> list[str]:
    return ["sweep", f"task=[{task}]", f"model.pretrained={untrained}", "model.window=8", *GRID, *overrides]


def answering(rows: list[dict[str, Any]]) -> Any:
    """In the model's place: FullKV answers right, all others wrong, whatever document they are shown."""
    images = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").tobytes() for row in rows]

    def row_of(conversation: list[dict[str, Any]]) -> dict[str, Any]:
        (message,) = conversation
        kinds = {part["type"]: part for part in message["content"]}
        pixels = kinds["image"].get("image") or kinds["image"]["url"]
        (found,) = [
            row
            for row, held in zip(rows, images, strict=True)
            if held == pixels.tobytes() and row["asked"].lower() in kinds["text"]["text"].lower()
        ]
        return found

    def answer(
        _: Any, conversations: Sequence[Any], methods: Sequence[Any], **__: Any
    ) -> list[list[Response]]:
        chosen = ["right" if isinstance(method, FullKV) else "wrong" for method in methods]
        return [
            [
                Response(row_of(one)[which], (1,), 20, (16.0,), 4, 1.0, 2.0, image=image_key(one))
                for one in conversations
            ]
            for which in chosen
        ]

    return answer


@pytest.mark.parametrize("task", TASKS)
def test_right_and_wrong_answers(task, untrained, tmp_path, monkeypatch, capfd):
    rows, file = rows_of(task), write(task, tmp_path / "data.parquet")
    monkeypatch.setattr(respond, "answer", answering(rows))
    assert cli.main(sweep(task, untrained, f"tasks.{task}.data_files={file}")) == 0
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err
    assert "INFO" not in shown.err
    assert "PTBTokenizer" not in shown.err  # Java's own words
    table: Any = load_results("results/sweep").set_index("method")
    assert (table["task"] == task).all()
    assert (table["n"] == len(rows)).all()
    assert table.loc["fullkv", "score"] == pytest.approx(SCHEMAS[task][2])
    assert table.loc["snapkv", "score"] == 0
    # MMBench's rotations of a question cannot be drawn again: the only one without intervals.
    assert table["ci_low"].isna().all() == (task == "mmbench_en_dev_static")
    assert table["ci_low"].isna().any() == (task == "mmbench_en_dev_static")
    samples = pd.read_parquet("results/sweep/samples.parquet")
    for method, column in (("fullkv", "right"), ("snapkv", "wrong")):
        said = samples.loc[samples["method"] == method, "response"].tolist()
        assert said == [row[column] for row in rows]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.parquet", "results"]


def test_the_embedded_model_answers_and_a_second_call_has_nothing_to_do(tmp_path, capsys):
    file = write("docvqa_val", tmp_path / "data.parquet")
    command = ["sweep", "task=[docvqa_val]", f"tasks.docvqa_val.data_files={file}", *GRID, "limit=4"]
    assert cli.main(command) == 0
    table: Any = load_results("results/sweep").set_index("method")
    assert table["n"].tolist() == [4, 4]
    assert set(table["metric"]) == {"anls"}
    assert table.loc["snapkv", "realised_budget"] == 16
    samples = pd.read_parquet("results/sweep/samples.parquet")
    assert (samples["response"] != "").any()
    before = Path("results/sweep/cells.csv").read_bytes()
    capsys.readouterr()
    moved = file.rename(tmp_path / "moved.parquet")
    assert cli.main([*command[:2], f"tasks.docvqa_val.data_files={moved}", *command[3:]]) == 0
    assert "2 of 2 cells are finished already" in capsys.readouterr().err
    assert Path("results/sweep/cells.csv").read_bytes() == before


def test_prompts_are_the_default_ones(tmp_path):
    file = write("docvqa_val", tmp_path / "data.parquet")
    options = {"metric": "anls", "data_files": str(file)}
    documents = load_documents("docvqa_val", 2, options=options)
    for document, row in zip(documents, rows_of("docvqa_val"), strict=False):
        (message,) = document.conversation()
        (text,) = [part["text"] for part in message["content"] if part["type"] == "text"]
        assert text == f"{row['question']}\nAnswer the question using a single word or phrase."
        assert document.settings == Settings(32, ("\n\n",))


def scored(task: str, file: Path, texts: list[str], limit: int | None = None, **options: Any) -> Scored:
    options = {**read("task", task), "data_files": str(file), **options}
    return score(dict(enumerate(texts)), task, options["metric"], limit, options)


def test_ocrbench_is_the_share_of_the_documents_there_are_and_does_not_accumulate(tmp_path):
    rows, file = rows_of("ocrbench"), write("ocrbench", tmp_path / "data.parquet")
    texts = [row["right"] for row in rows[:2]] + ["?"] * 4
    for _ in range(2):
        assert scored("ocrbench", file, texts).value == pytest.approx(2 / 6)
        assert scored("ocrbench", file, texts, limit=4).value == 0.5


def test_mmbench_counts_a_question_only_if_all_its_rotations_are_right(tmp_path):
    file = write("mmbench_en_dev_static", tmp_path / "data.parquet")
    right = [row["right"] for row in rows_of("mmbench_en_dev_static")]
    assert scored("mmbench_en_dev_static", file, [*right[:3], "D", *right[4:]]).value == pytest.approx(
        200 / 3
    )


def test_mmes_two_metrics_are_of_different_documents(tmp_path):
    file = write("mme", tmp_path / "data.parquet")
    right = [row["right"] for row in rows_of("mme")]
    assert scored("mme", file, right, metric="mme_cognition_score").value == 200
    half = scored("mme", file, [*right[:5], "?"])
    assert half.value == 200 + 50
    assert half.samples["score"] == [None, None, 1, 1, 1, 0]


@JAVA
def test_captions_own_scores_have_the_official_mean(tmp_path):
    rows, file = rows_of("textcaps_val"), write("textcaps_val", tmp_path / "data.parquet")
    texts = [rows[0]["right"], "number says", "", rows[2]["right"], "It's the sign's 4th word.", "a sign"]
    given = scored("textcaps_val", file, texts)
    assert given.aggregation == ""
    assert sum(given.samples["score"]) / 6 == pytest.approx(given.value, abs=1e-9)
    assert given.samples["score"][2] == 0 < given.value < 10
    other = scored("textcaps_val", file, texts, metric="textcaps_Bleu_1")
    assert 0 < other.value < 1
    assert other.samples["score"] == [None] * 6
    assert "aggregated" not in other.samples


@pytest.mark.parametrize("kind", ["folder", "pattern", "as pandas writes it"])
def test_local_data_may_lie_in_parts(kind, tmp_path):
    rows = rows_of("docvqa_val")
    folder = tmp_path / "data"
    folder.mkdir()
    for part in range(2):
        write("docvqa_val", folder / f"validation-0000{part}-of-00002.parquet", rows[3 * part :][:3])
    write("docvqa_val", folder / "test-00000-of-00001.parquet", rows[:1])
    given = {"folder": folder, "pattern": folder / "validation-*.parquet", "as pandas writes it": folder}[
        kind
    ]
    if kind == "as pandas writes it":
        for file in folder.iterdir():
            pq.write_table(pq.read_table(file).replace_schema_metadata(None), file)
    assert scored("docvqa_val", given, [row["right"] for row in rows]).samples["score"] == [1] * 6


def test_identity_is_of_the_content_not_the_place(tmp_path):
    rows = rows_of("chartqa")
    options = {**read("task", "chartqa"), "data_files": str(write("chartqa", tmp_path / "a.parquet"))}
    base = tasks.identity("chartqa", options)
    assert json.loads(json.dumps(base)) == base
    assert base["lmms_eval"] == version("lmms_eval")
    same = write("chartqa", tmp_path / "b.parquet")
    assert tasks.identity("chartqa", {**options, "data_files": str(same)}) == base
    rows[3]["answer"] = "7"
    other = write("chartqa", tmp_path / "c.parquet", rows)
    hub = {**options, "data_files": None}
    identities = [
        base,
        tasks.identity("chartqa", {**options, "data_files": str(other)}),
        tasks.identity("chartqa", {**options, "metric": "relaxed_human_split"}),
        tasks.identity("chartqa", hub),
        tasks.identity("chartqa", {**hub, "revision": "0a1b"}),
    ]
    assert len({json.dumps(identity, sort_keys=True) for identity in identities}) == len(identities)
    assert identities[-1]["documents"] == {
        "dataset_path": "lmms-lab-encoder/ChartQA",
        "dataset_name": None,
        "revision": "0a1b",
    }


def test_the_files_of_the_documentation_are_what_lmms_eval_reads(tmp_path):
    """Local data on lmms-eval's own command line: a group of the official names with other places of data."""
    from lmms_eval.tasks import TaskManager, get_task_dict

    text = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for task, file in (("docvqa_val", "docvqa.parquet"), ("gqa", "gqa.parquet")):
        assert f"/data/{file}" in written
        written = written.replace(f"/data/{file}", str(write(task, tmp_path / file)))
    (tmp_path / "local_data.yaml").write_text(written)
    manager = TaskManager("ERROR", include_path=str(tmp_path), model_name="sparsemm")
    ((_, made),) = get_task_dict(["local_data"], manager, "chat").items()
    assert {name: len(task.test_docs()) for name, task in made.items()} == {"docvqa_val": 6, "gqa": 6}


def test_the_documentation_names_every_benchmark_as_it_is():
    text = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text(encoding="utf-8")
    for task, benchmark in BENCHMARKS.items():
        settings = official.settings(task, read("task", task))
        dataset = ", ".join(filter(None, official.source(task)))
        (row,) = re.findall(rf"\| `{task}` \| [\d,]+ \| `(\w+)`[^|]* \| [\d,]+ \| (.*) \| (\w+) \|", text)
        assert row == (read("task", task)["metric"], dataset, settings["test_split"])
        (columns,) = re.findall(rf"\| `{task}` \| (`.*)\|\n", text)
        named = re.findall("`(.*?)`", columns.replace("`A` to `D`", "`A` `B` `C` `D`"))
        assert ("image", *named) == benchmark.columns
