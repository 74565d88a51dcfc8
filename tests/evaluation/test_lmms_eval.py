"""lmms-eval's own command line gives the scores and the responses of the sweep's cells."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from sparsemm import cli
from sparsemm.evaluation.tables import load_results
from sparsemm.evaluation.tasks import include_path

TASKS = ["tiny_docvqa", "tiny_ocr", "tiny_chartqa", "tiny_textvqa"]
DOCUMENTS = 16


def test_same_scores_as_the_sweep(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "lmms_eval", "--model", "sparsemm"]
    command += ["--model_args", "pretrained=tiny,method=snapkv,budget=32", "--tasks", ",".join(TASKS)]
    command += ["--include_path", str(include_path()), "--batch_size", "8", "--limit", str(DOCUMENTS)]
    command += ["--output_path", "logs", "--log_samples"]
    ended = subprocess.run(command, capture_output=True, text=True)
    # lmms-eval exits with 0 even when it fails: what counts is that results are there.
    files = list(tmp_path.glob("logs/**/*_results.json"))
    assert len(files) == 1, ended.stderr
    metrics = json.loads(files[0].read_text())["results"]

    overrides = [f"task=[{','.join(TASKS)}]", "method=[snapkv]", "budget=32", "batch_size=8"]
    assert cli.main(["sweep", *overrides, f"limit={DOCUMENTS}"]) == 0
    cells: Any = load_results("results/sweep").set_index("task")
    responses: Any = pd.read_parquet("results/sweep/samples.parquet").set_index(["task", "doc_id"])

    for task in TASKS:
        cell = cells.loc[task]
        assert cell["n"] == DOCUMENTS
        assert metrics[task][f"{cell['metric']},none"] == cell["score"]
        (log,) = tmp_path.glob(f"logs/**/*_samples_{task}.jsonl")
        samples = [json.loads(line) for line in log.read_text().splitlines()]
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
