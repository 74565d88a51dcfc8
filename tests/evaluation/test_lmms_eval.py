"""lmms-eval's own command line: the sweep's scores, several processes, and how it ends when a run fails."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lmms_eval.__main__ import cli_evaluate
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from loguru import logger

from sparsemm import cli
from sparsemm.configs import InputError, shipped
from sparsemm.evaluation import model
from sparsemm.evaluation.tables import load_results
from sparsemm.evaluation.tasks import include_path

TASKS = ["tiny_docvqa", "tiny_ocr", "tiny_chartqa", "tiny_textvqa"]
DOCUMENTS = 16
BATCHED = ("prefill_s", "decode_s")
"""Figures that are a batch's, shared out."""


def options(model_args: str, tasks: list[str], limit: int) -> list[str]:
    """Of lmms-eval's command line."""
    given = ["--model", "sparsemm", "--model_args", model_args, "--tasks", ",".join(tasks)]
    return [*given, "--include_path", str(include_path()), "--limit", str(limit)]


def run(*arguments: str, start: tuple[str, ...] = ("-m", "lmms_eval"), **environment: str) -> Any:
    """Run a Python module in a process of its own."""
    command = [sys.executable, *start, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def logged(folder: Path, task: str) -> list[dict[str, Any]]:
    """The samples log of a task, in its own order."""
    (log,) = folder.glob(f"**/*_samples_{task}.jsonl")
    return [json.loads(line) for line in log.read_text().splitlines()]


def metrics(folder: Path) -> dict[str, Any]:
    """The scores of all tasks of a run."""
    (path,) = folder.glob("**/*_results.json")
    return json.loads(path.read_text())["results"]


def evaluate(model_args: str, tasks: list[str], limit: int, batch_size: int) -> dict[str, Any]:
    """Run lmms-eval in this process."""
    manager = TaskManager("ERROR", include_path=str(include_path()), include_defaults=False)
    given: Any = {"model_args": model_args, "tasks": tasks, "limit": limit, "batch_size": batch_size}
    found: Any = simple_evaluate("sparsemm", task_manager=manager, device="cpu", bootstrap_iters=0, **given)
    return found


def test_same_scores_as_the_sweep(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = options("pretrained=tiny,method=snapkv,budget=32", TASKS, DOCUMENTS)
    ended = run(*asked, "--batch_size", "8", "--output_path", "logs", "--log_samples")
    assert ended.returncode == 0, ended.stderr
    scores = metrics(tmp_path / "logs")

    overrides = [f"task=[{','.join(TASKS)}]", "method=[snapkv]", "budget=32", "batch_size=8"]
    assert cli.main(["sweep", *overrides, f"limit={DOCUMENTS}"]) == 0
    cells: Any = load_results("results/sweep").set_index("task")
    responses: Any = pd.read_parquet("results/sweep/samples.parquet").set_index(["task", "doc_id"])

    for task in TASKS:
        cell = cells.loc[task]
        assert cell["n"] == DOCUMENTS
        assert scores[task][f"{cell['metric']},none"] == cell["score"]
        samples = logged(tmp_path / "logs", task)
        assert len(samples) == DOCUMENTS
        for sample in samples:
            row, figures = responses.loc[(task, sample["doc_id"])], sample["token_counts"][0]
            assert sample["filtered_resps"] == row["response"].strip()  # the log is stripped
            assert figures["input_tokens"] == row["prompt_tokens"]
            assert figures["realised_budget"] == row["realised_budget"] == 32
            assert figures["evicted_tokens"] == row["evicted_tokens"] > 0
            assert figures["prefill_s"] > 0
    assert cells["score"].max() > 0  # it reads something: equal scores say something
    assert not list(tmp_path.rglob("*submission*"))


def test_two_processes_give_the_log_of_one(tmp_path: Path):
    asked, tasks, count = "pretrained=tiny,method=sparsemm,budget=24", TASKS[:2], 7
    ended = run(
        *options(asked, tasks, count),
        *("--batch_size", "3", "--output_path", str(tmp_path), "--log_samples"),
        start=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "lmms_eval"),
        ACCELERATE_USE_CPU="true",
    )
    assert ended.returncode == 0, ended.stderr
    alone = evaluate(asked, tasks, count, batch_size=2)
    for task in tasks:
        samples = logged(tmp_path, task)
        # lmms-eval joins the processes' shares one after the other: both took part, and nothing pads.
        assert [sample["doc_id"] for sample in samples] == [0, 2, 4, 6, 1, 3, 5]
        for sample in samples:
            one = alone["samples"][task][sample["doc_id"]]
            assert [sample["filtered_resps"]] == [text.strip() for text in one["filtered_resps"]]
            assert {**sample["token_counts"][0], **dict.fromkeys(BATCHED)} == {
                **one["token_counts"][0],
                **dict.fromkeys(BATCHED),
            }
    for task, scores in metrics(tmp_path).items():
        for name, value in scores.items():
            if "stderr" not in name:
                assert value == alone["results"][task][name]
    assert alone["results"]["tiny_docvqa"]["anls,none"] > 0.5


def test_wrong_input_ends_with_exit_code_2_and_one_line(tmp_path: Path):
    asked = options("pretrained=tiny,method=snapkw,budget=32", ["tiny_ocr"], 1)
    ended = run(*asked, "--output_path", str(tmp_path))
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == "sparsemm: unknown method 'snapkw'; did you mean snapkv?"
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not list(tmp_path.iterdir())


@pytest.fixture
def command_line(tmp_path: Path, monkeypatch):
    """Run lmms-eval's command line in this process."""
    monkeypatch.setenv("VERBOSITY", "INFO")  # which it sets

    def call(model_args: str, *more: str) -> None:
        asked = [*options(model_args, ["tiny_ocr"], 2), "--output_path", str(tmp_path / "logs"), *more]
        monkeypatch.setattr(sys, "argv", ["lmms-eval", *asked])
        cli_evaluate()

    yield call
    logger.remove()  # it writes to a stdout that is no more
    assert not list(tmp_path.glob("logs/**/*_results.json"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--batch_size", "auto"], "batch_size must be a positive integer, got 'auto'"),
        (["--gen_kwargs", "until=4"], "a stop string must be a text, got 4"),
        (["--gen_kwargs", "temperature=0.7"], "asks for a temperature of 0.7"),  # found when it generates
    ],
)
def test_wrong_options_end_the_command_line(command_line, more, message, capsys):
    with pytest.raises(SystemExit) as end:
        command_line("pretrained=tiny,method=snapkv,budget=32", *more)
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sparsemm: ")]
    assert message in line


ASKED = {
    "multiple_choice\ndoc_to_choice: [a, b]": "compares likelihoods (multiple_choice)",
    "loglikelihood": "compares likelihoods (loglikelihood)",
    "generate_visual_cot": "lets the model draw (generate_visual_cot)",
    "generate_until_multi_round": "takes several rounds (generate_until_multi_round)",
    "generate_until\ndoc_to_visual: !function own.video": "only text and images are supported",
}


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked.split()[0])
def test_tasks_that_ask_for_something_else_end_the_command_line(command_line, tmp_path, asked, capsys):
    folder = tmp_path / "tasks"
    folder.mkdir()
    pd.DataFrame({"question": ["what"] * 2}).to_parquet(folder / "own.parquet")
    (folder / "own.py").write_text("def video(doc):\n    return ['a.mp4']\n")
    (folder / "own.yaml").write_text(
        "task: own\ndataset_path: parquet\ntest_split: test\ndoc_to_text: question\ndoc_to_target: a\n"
        f"dataset_kwargs: {{data_files: {{test: {folder / 'own.parquet'}}}}}\n"
        f"metric_list: [{{metric: acc}}]\noutput_type: {asked}\n"
    )
    with pytest.raises(SystemExit) as end:
        command_line(
            "pretrained=tiny,method=snapkv,budget=32", "--include_path", str(folder), "--tasks", "own"
        )
    assert end.value.code == 2
    shown = capsys.readouterr().err.splitlines()
    # The bar of documents begins with the same word.
    [line] = [line for line in shown if line.startswith("sparsemm: ") and "it/s]" not in line]
    assert ASKED[asked] in line


def test_a_failure_midway_ends_the_command_line(command_line, monkeypatch, capsys):
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "generate", fail)
    with pytest.raises(SystemExit) as end:
        command_line("pretrained=tiny,method=snapkv,budget=32")
    assert end.value.code == 1
    assert "RuntimeError: out of memory" in capsys.readouterr().err


def test_debug_shows_where(command_line):
    with pytest.raises(InputError, match="needs a budget"):
        command_line("pretrained=tiny,method=snapkv", "--verbosity", "DEBUG")


def test_python_gets_the_exception_itself():
    with pytest.raises(InputError, match="needs a budget"):
        evaluate("pretrained=tiny,method=snapkv", ["tiny_ocr"], 1, 1)


def test_a_checkpoint_folder_with_all_arguments(tmp_path: Path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(shipped("tiny/checkpoint"), folder)
    scores = shipped("results/head_scores/tiny.safetensors")
    given = f"pretrained={folder},window=8,dtype=bfloat16,method=sparsemm,budget=0.2,ratio=0.2"
    found = evaluate(f"{given},head_scores={scores},max_new_tokens=6", ["tiny_docvqa"], 4, 2)
    for sample in found["samples"]["tiny_docvqa"]:
        (figures,) = sample["token_counts"]
        assert figures["realised_budget"] == round(0.2 * figures["input_tokens"])
        assert figures["output_tokens"] <= 6
    assert found["results"]["tiny_docvqa"]["anls,none"] > 0
