"""Every official benchmark end to end: documents, prompts, the sweep, lmms-eval's own scoring; only the text is given."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from sparsemm import cli
from sparsemm.evaluation import respond
from sparsemm.evaluation.official import BENCHMARKS
from sparsemm.evaluation.responses import Response
from sparsemm.evaluation.tables import load_results
from sparsemm.methods import FullKV
from tests.evaluation.official_documents import SCHEMAS, rows_of, write
from tests.evaluation.provoking import refused

JAVA = pytest.mark.skipif(shutil.which("java") is None, reason="CIDEr's tokenizer needs Java")
TASKS = [pytest.param(task, marks=JAVA if BENCHMARKS[task].java else ()) for task in SCHEMAS]
GRID = ("method=[fullkv,snapkv]", "budget=[16]", "batch_size=4")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sweep(task: str, untrained: Path, *overrides: str) -> list[str]:
    return ["sweep", f"task=[{task}]", f"model.pretrained={untrained}", *GRID, *overrides]


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

    def answer(_: Any, conversations: Sequence[Any], methods: Sequence[Any], **__: Any) -> list[list[Response]]:
        chosen = ["right" if isinstance(method, FullKV) else "wrong" for method in methods]
        texts = [[row_of(conversation)[which] for conversation in conversations] for which in chosen]
        return [[Response(text, (1,), 20, (16.0,), 4, 1.0, 2.0, image=text) for text in row] for row in texts]

    return answer


@pytest.mark.parametrize("task", TASKS)
def test_right_and_wrong_answers(task, untrained, tmp_path, monkeypatch, capfd):
    rows, file = rows_of(task), write(task, tmp_path / "data.parquet")
    monkeypatch.setattr(respond, "answer", answering(rows))
    assert cli.main(sweep(task, untrained, f"tasks.{task}.data_files={file}")) == 0
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err
    assert "| INFO" not in shown.err
    table: Any = load_results("results/sweep").set_index("method")
    assert (table["task"] == task).all()
    assert (table["n"] == len(rows)).all()
    assert table.loc["fullkv", "score"] == pytest.approx(SCHEMAS[task][2])
    assert table.loc["snapkv", "score"] == 0
    samples = pd.read_parquet("results/sweep/samples.parquet")
    for method, column in (("fullkv", "right"), ("snapkv", "wrong")):
        said = samples.loc[samples["method"] == method, "response"].tolist()
        assert said == [row[column] for row in rows]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.parquet", "results"]
