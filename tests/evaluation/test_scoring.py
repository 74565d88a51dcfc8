"""What lmms-eval returns becomes a score with its samples, or one clear line."""

import json
from pathlib import Path
from typing import Any

import lmms_eval
import pytest
import yaml

from sparsemm.evaluation import scoring, tasks
from sparsemm.evaluation.aggregation import name_of
from sparsemm.evaluation.results import derive_tables, write_cell
from sparsemm.evaluation.scoring import Scored, read_results, score
from sparsemm.evaluation.task_files import share_found

LIMIT = 6
TASKS = Path(lmms_eval.__file__).parent / "tasks"
YAML = TASKS / "ocrbench/ocrbench.yaml"
OFFICIAL = "lmms_eval.tasks.ocrbench.utils:ocrbench_aggregate_accuracy"


@pytest.fixture
def official(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The official ocrbench on the local pages."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = {"data_files": {"test": str(tasks.include_path() / "tiny_ocr.parquet")}}
    changes = {"task": "official_ocr", "dataset_path": "parquet", "dataset_kwargs": data}
    (folder / "official_ocr.yaml").write_text(yaml.safe_dump({"include": str(YAML), **changes}))
    monkeypatch.setattr(scoring, "include_path", lambda: folder)
    return folder


def answers(task: str) -> list[str]:
    """The right answers of a task's first documents."""
    found = [row["answers"] if "answers" in row else row["answer"] for row in tasks.documents(task, LIMIT)]
    return [answer if isinstance(answer, str) else answer[0] for answer in found]


def texts(right: int) -> dict[int, str]:
    """The answers of the first `right` documents of tiny_ocr, and wrong ones."""
    return {number: answer if number < right else "?" for number, answer in enumerate(answers("tiny_ocr"))}


@pytest.mark.parametrize(
    ("task", "metric", "yaml_file"),
    [
        ("tiny_docvqa", "anls", "docvqa/docvqa_val.yaml"),
        ("tiny_chartqa", "relaxed_overall", "chartqa/chartqa.yaml"),
        ("tiny_textvqa", "exact_match", "textvqa/textvqa_val.yaml"),
    ],
)
def test_scores_are_those_of_the_official_task(task, metric, yaml_file, tmp_path, monkeypatch):
    """Right, wrong, empty, in capitals, cut short and as part of more: document by document the same."""
    right = answers(task)
    given = dict(enumerate([right[0], "?", "", right[3].upper(), right[4][:-1], f"{right[5]} {right[5]}"]))
    ours = score(given, task, metric, LIMIT)

    split = "test" if task == "tiny_chartqa" else "validation"
    data = {"data_files": {split: str(tasks.include_path() / f"{task}.parquet")}}
    changes = {"task": "official", "dataset_path": "parquet", "dataset_name": None, "dataset_kwargs": data}
    changes["include"] = str(TASKS / yaml_file)
    (tmp_path / "official.yaml").write_text(yaml.safe_dump(changes))
    monkeypatch.setattr(scoring, "include_path", lambda: tmp_path)
    theirs = score(given, "official", metric, LIMIT)
    assert ours.value == theirs.value == pytest.approx(sum(theirs.samples["score"]) / LIMIT)
    assert ours.aggregation is None
    assert ours.samples["score"] == theirs.samples["score"]
    assert ours.samples["score"][:4] == [1, 0, 0, 1]


def test_a_part_of_the_documents_may_lack_a_metric():
    """chartqa scores people's and machines' questions apart; the first document is a machine's."""
    given = dict(enumerate(answers("tiny_chartqa")))
    assert score(given, "tiny_chartqa", "relaxed_overall", 1).value == 1
    with pytest.raises(ValueError, match="no metric 'relaxed_human_split'; did you mean"):
        score(given, "tiny_chartqa", "relaxed_human_split", 1)
    part = score(given, "tiny_chartqa", "relaxed_human_split", LIMIT)
    assert part.value == 1
    assert set(part.samples["score"]) == {1, None}


def scored(right: int, task: str) -> Scored:
    return score(texts(right), task, "ocrbench_accuracy", LIMIT)


def test_a_mean_needs_no_inputs_of_its_aggregation():
    result = scored(2, "tiny_ocr")
    assert result.value == pytest.approx(2 / LIMIT)
    assert result.aggregation is None
    assert result.samples["score"] == [1, 1, 0, 0, 0, 0]
    assert "aggregated" not in result.samples


def test_official_ocrbench_divides_by_1000_and_gets_intervals(official, tmp_path):
    """All the way: lmms-eval's run, the cell's file, the table."""
    for method, budget, right in (("fullkv", None, 5), ("snapkv", 16, 2), ("snapkv", 32, 0)):
        result = scored(right, "official_ocr")
        assert result.aggregation == OFFICIAL
        assert [entry["score"] for entry in result.samples["aggregated"]] == [1] * right + [0] * (6 - right)
        row = {"model": "m", "task": "t", "metric": "x", "method": method, "budget": budget}
        row |= {"score": result.value, "aggregation": result.aggregation}
        samples = {name: result.samples[name] for name in ("doc_id", "response", "score", "aggregated")}
        write_cell(tmp_path, f"{method}{budget}", "g", row, samples)
    table: Any = derive_tables(tmp_path).set_index("budget")
    assert table["score"].tolist()[1:] == [0.002, 0.0]
    assert 0 <= table.loc[16, "ci_low"] < 0.002 < table.loc[16, "ci_high"] <= 0.006
    assert table["diff_ci_low"].tolist()[0] == 0
    assert table.loc[32, "diff_ci_high"] < 0


def test_aggregations_are_named_by_their_file():
    """lmms-eval loads a task's files under short names."""
    from lmms_eval.utils import load_yaml_config

    function = load_yaml_config(str(YAML))["metric_list"][0]["aggregation"]
    assert function.__module__ == "utils"
    assert name_of(function) == OFFICIAL
    assert name_of(share_found) == "sparsemm.evaluation.task_files:share_found"
    assert name_of(json.dumps) is None
    assert name_of(lambda results: 0.0) is None


@pytest.mark.parametrize(
    "results",
    [
        None,
        {},
        {"results": {}},
        {"results": {"t": {"x,none": 1.0}}, "samples": {"t": []}},
    ],
)
def test_no_result_is_an_error_of_one_line(results):
    with pytest.raises(ValueError, match="lmms-eval gave no result for t") as error:
        read_results(results, "t", "x")
    assert "\n" not in str(error.value)


def test_an_unknown_metric_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="no metric 'ocrbench_acc'; did you mean ocrbench_accuracy"):
        score(texts(1), "tiny_ocr", "ocrbench_acc", 2)
