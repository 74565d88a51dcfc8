import hashlib
import json

import pandas as pd
import pytest

from sparsemm.evaluation.tables import CELL_COLUMNS
from sparsemm.figures import save


@pytest.fixture
def results(cells, tmp_path):
    """A results folder whose SparseMM cells used a file of head scores that lies where run.json says."""
    scores = tmp_path / "scores" / "tiny.json"
    scores.parent.mkdir()
    scores.write_text(
        json.dumps({f"{layer}-{head}": [layer * head / 7] for layer in range(6) for head in range(8)})
    )
    label = f"tiny.json@{hashlib.sha256(scores.read_bytes()).hexdigest()[:12]}"
    folder = tmp_path / "results" / "made_up"
    folder.mkdir(parents=True)
    table = cells.reindex(columns=list(CELL_COLUMNS)).astype({"head_scores": object})
    table.loc[table["method"] == "sparsemm", "head_scores"] = label
    table["schema_version"] = 1
    table.to_csv(folder / "cells.csv", index=False)
    (folder / "run.json").write_text(json.dumps({"config": {"model": {"head_scores": str(scores)}}}))
    return folder


def test_every_figure_is_written_as_png_and_pdf(results):
    written = save(results)
    assert [path.relative_to(results).as_posix() for path in written] == [
        "figures/accuracy_vs_budget.png",
        "figures/accuracy_vs_budget.pdf",
        "figures/head_scores_tiny.png",
        "figures/head_scores_tiny.pdf",
    ]
    assert sorted((results / "figures").iterdir()) == sorted(written)  # nothing half-written beside them
    assert written[0].read_bytes().startswith(b"\x89PNG")
    pdf = written[1].read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf  # TrueType, embedded
    assert b"/Type3" not in pdf


def test_the_same_data_give_the_same_bytes(results):
    before = {path: path.read_bytes() for path in save(results)}
    assert {path: path.read_bytes() for path in save(results)} == before


def test_scores_that_changed_since_the_run_are_not_drawn(results, tmp_path):
    scores = tmp_path / "scores" / "tiny.json"
    scores.write_text(scores.read_text().replace("0.0", "0.5"))
    with pytest.warns(UserWarning, match="their figure is left out"):
        written = save(results)
    assert {path.stem for path in written} == {"accuracy_vs_budget"}


def test_a_folder_without_cells_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cells\.csv"):
        save(tmp_path)


def test_controls_and_variants_have_figures_of_their_own(results):
    table = pd.read_csv(results / "cells.csv")
    more = [
        table[table["method"] == "sparsemm"].assign(method=name)
        for name in ("sparsemm_layer_mean", "sparsemm_flat", "sparsemm_released", "adakv_original")
    ]
    pd.concat([table, *more]).to_csv(results / "cells.csv", index=False)
    names = {path.stem for path in save(results)}
    assert names == {"accuracy_vs_budget", "accuracy_controls", "accuracy_variants", "head_scores_tiny"}
    pairs = [("sparsemm", "sparsemm_flat"), ("sparsemm", "sparsemm_layer_mean")]
    rows = [
        {"model": "tiny", "task": "tiny_ocr", "method": method, "reference": reference, "budget": budget}
        | {"difference": 0.1, "ci_low": 0.0, "ci_high": 0.2}
        for method, reference in pairs
        for budget in (12, 24)
    ]
    pd.DataFrame(rows).to_csv(results / "comparisons.csv", index=False)
    assert {path.stem for path in save(results)} == names | {"differences_vs_budget"}
