"""Ablations and forms of prompts in a sweep: as separate runs with real eviction, resumed, compared."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sparsemm import cli
from sparsemm.evaluation.generation import generate
from sparsemm.evaluation.planning import plan
from sparsemm.evaluation.requests import load_documents
from sparsemm.evaluation.tables import PROMPTS, QUESTION_AFTER, load_results
from sparsemm.models.loading import load
from tests.composing import composed

LIMIT = 6
GRID = [
    *("task=[tiny_docvqa]", "method=[fullkv,snapkv,adakv]", "budget=[12,40]", f"limit={LIMIT}"),
    *("max_new_tokens=12", f"prompt=[{','.join(PROMPTS)}]", "ablation=[mask_visual,mask_random]"),
    *("fraction=[0,0.2]", "ablations.mask_random.seed=[0,1]", "batch_size=4"),
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["sweep", *GRID]) == 0
    return folder / "results/sweep"


def test_every_response_is_that_of_a_separate_run(swept: Path) -> None:
    config = composed("sweep", *GRID)
    checkpoint = load(config["model"], "cpu")
    documents = load_documents("tiny_docvqa", LIMIT, 12, config["tasks"]["tiny_docvqa"])
    samples: Any = pd.read_parquet(swept / "samples.parquet").set_index(["cell", "doc_id"])
    cells = plan(config)
    assert len(cells) == (1 + 2 * 2 * 2) * (1 + 1 + 2)
    for cell in cells:
        conversations = [document.conversation(cell.prompt) for document in documents]
        settings = {"max_new_tokens": 12, "until": documents[0].settings.until, "prefill": cell.prefill}
        for start in (0, 4):  # the sweep's batches
            alone = generate(checkpoint, conversations[start : start + 4], cell.method, **settings)
            for offset, response in enumerate(alone):
                row = samples.loc[(cell.id, start + offset)]
                assert row["response"] == response.text
                assert row["prompt_tokens"] == response.prompt_tokens
                assert row["realised_budget"] == response.realised_budget
                assert row["evicted_tokens"] == response.evicted_tokens
    assert samples.groupby(["method", "prompt", "ablation", "fraction"], dropna=False).size().min() >= LIMIT


def test_bytes_count_the_question(swept: Path) -> None:
    """It is held beside the budget: 40 entries with the question in them take less than 40 and a question."""
    cells: Any = load_results(swept)
    plain = cells[cells["ablation"].isna() & (cells["method"] == "snapkv")].set_index(["prompt", "budget"])
    assert (plain["realised_budget"] == plain.index.get_level_values("budget")).all()
    inside, behind = (plain.loc[(prompt, 40)]["kv_bytes"] for prompt in PROMPTS)
    assert inside < behind < plain.loc[(QUESTION_AFTER, 40)]["full_kv_bytes"]


def test_differences_are_to_the_whole_model_and_in_pairs(swept: Path) -> None:
    cells: Any = load_results(swept)
    full = cells[(cells["method"] == "fullkv") & cells["ablation"].isna()]["score"].item()
    assert (cells["diff_full"] - (cells["score"] - full)).abs().max() < 1e-9
    assert cells[cells["ablation"].notna() & (cells["method"] == "fullkv")]["prompt"].eq(PROMPTS[0]).all()
    pairs: Any = pd.read_csv(swept / "comparisons.csv")
    assert set(pairs["compared"]) == {"prompt", "ablation"}
    assert set(pairs.loc[pairs["compared"] == "ablation", "reference"]) == {"mask_random"}
    both = pairs[(pairs["compared"] == "prompt") & pairs["ablation"].isna() & pairs["budget"].isna()]
    assert set(both["method"]) == {"snapkv", "adakv"}
    assert (both["budgets"] == 2).all()


def test_the_same_command_has_nothing_to_do(swept: Path, capsys) -> None:
    before = (swept / "cells.csv").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(swept.parents[1])
        assert cli.main(["sweep", *GRID]) == 0
        assert cli.main(["status", "results/sweep"]) == 0
    said = capsys.readouterr()
    assert "36 of 36 cells are finished already" in said.err
    assert "fullkv, mask_visual 0.2" in said.out
    assert "snapkv, question after, mask_random 0.2" in said.out
    assert (swept / "cells.csv").read_bytes() == before


def test_a_document_that_cannot_be_asked_so_fails_alone(tmp_path, monkeypatch, capsys) -> None:
    """Text before the image would be seen by its compression."""
    from sparsemm.evaluation import requests

    monkeypatch.chdir(tmp_path)
    own = requests.ChatMessages.to_hf_messages

    def turned(self: Any) -> Any:
        messages = own(self)
        if "total" in str(messages[-1]["content"][-1]).lower():
            messages[-1]["content"].reverse()
        return messages

    monkeypatch.setattr(requests.ChatMessages, "to_hf_messages", turned)
    options = ["task=[tiny_docvqa]", "method=[snapkv]", "budget=40", "limit=24", "max_new_tokens=2"]
    assert cli.main(["sweep", *options, f"prompt={QUESTION_AFTER}"]) == 1
    table: Any = load_results("results/sweep")
    assert 0 < table["n_failed"].item() < 24
    assert "text before the last image" in capsys.readouterr().out
