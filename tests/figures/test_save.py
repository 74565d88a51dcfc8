import pandas as pd
import pytest

from sparsemm.figures import save


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
        {
            "model": "tiny",
            "task": "tiny_ocr",
            "compared": "method",
            "prompt": "image_question",
            "method": method,
            "reference": reference,
        }
        | {"budget": budget, "ablation": None, "difference": 0.1, "ci_low": 0.0, "ci_high": 0.2}
        for method, reference in pairs
        for budget in (12, 24)
    ]
    pd.DataFrame(rows).to_csv(results / "comparisons.csv", index=False)
    assert {path.stem for path in save(results)} == names | {"differences_vs_budget"}
