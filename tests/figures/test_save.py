from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from sparsemm import cli
from sparsemm.evaluation.allocations import ALLOCATION_COLUMNS
from sparsemm.evaluation.tables import CELL_COLUMNS
from sparsemm.figures import save
from sparsemm.figures.style import COLUMN_WIDTH, FULL_WIDTH


def test_every_figure_is_written_as_png_and_pdf(results):
    written = save(results)
    assert [path.relative_to(results).as_posix() for path in written] == [
        "figures/accuracy_vs_budget.png",
        "figures/accuracy_vs_budget.pdf",
        "figures/overall_score.png",
        "figures/overall_score.pdf",
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
    scores = results / "tiny.json"
    scores.write_text(scores.read_text().replace("0.0", "0.5"))
    with pytest.warns(UserWarning, match="their figure is left out"):
        written = save(results)
    assert {path.stem for path in written} == {"accuracy_vs_budget", "overall_score"}


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
    assert names == {
        *(
            "accuracy_vs_budget",
            "accuracy_controls",
            "accuracy_variants",
            "overall_score",
            "head_scores_tiny",
        ),
    }
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


@pytest.fixture
def counted(results: Path, measured: pd.DataFrame, allocations: pd.DataFrame) -> Path:
    """The folder with all that a sweep counts: realised budgets, bytes and allocations."""
    table = measured.reindex(columns=list(CELL_COLUMNS)).assign(schema_version=3)
    table.to_csv(results / "cells.csv", index=False)
    allocations.reindex(columns=list(ALLOCATION_COLUMNS)).to_parquet(results / "allocations.parquet")
    return results


def stems(paths) -> set[str]:
    return {Path(path).stem for path in paths}


ALL = {
    *("accuracy_vs_budget", "accuracy_vs_realised_budget", "score_vs_memory", "overall_score"),
    "allocation_tiny",
}


def test_a_folder_with_all_that_is_counted_has_all_figures(counted, decode):
    said: list[str] = []
    assert stems(save(counted, say=said.append)) == ALL
    assert said == []
    decode.to_csv(counted.parent / "decode.csv", index=False)
    timed = {"score_vs_latency_cpu_batch1", "score_vs_latency_cpu_batch32"}
    assert stems(save(counted, efficiency=counted.parent, say=said.append)) == ALL | timed
    assert [line.split(" is without ")[1] for line in said] == [
        "adakv, pyramidkv, random: no times were measured of them"
    ] * 2


def test_what_is_left_out_is_said_in_a_line_each(results, decode):
    decode.assign(dtype="bfloat16").to_csv(results / "times.csv", index=False)
    said: list[str] = []
    save(results, efficiency=results / "times.csv", paper=True, say=said.append)
    assert [line.split(" is left out: ")[0] for line in said] == [
        *("accuracy_vs_realised_budget", "score_vs_memory", "score_vs_latency", "reproduction_delta"),
        "allocation",
    ]
    assert all("\n" not in line for line in said)
    assert said[3].endswith("arXiv 2506.05344 has no score of these models, tasks and metrics")
    assert said[4].endswith("there is no allocations.parquet: the sweep did not count heads")


def test_the_papers_models_are_drawn_beside_the_paper(official, tmp_path):
    table = official.reindex(columns=list(CELL_COLUMNS)).assign(schema_version=3)
    table.to_csv(tmp_path / "cells.csv", index=False)
    names = {"accuracy_vs_budget", "overall_score", "reproduction_delta"}
    assert stems(save(tmp_path, paper=True, say=lambda line: None)) == names
    marked = (tmp_path / "figures/accuracy_vs_budget.png").read_bytes()
    assert stems(save(tmp_path, say=lambda line: None)) == names
    assert (tmp_path / "figures/accuracy_vs_budget.png").read_bytes() != marked


def test_budgets_in_tokens_and_in_shares_are_drawn_apart(results):
    table = pd.read_csv(results / "cells.csv")
    shares = table[table["budget"].notna()].assign(budget=lambda rows: rows["budget"] / 128)
    pd.concat([table, shares]).to_csv(results / "cells.csv", index=False)
    assert stems(save(results, say=lambda line: None)) == {
        *("accuracy_vs_budget", "accuracy_vs_budget_shares", "overall_score", "overall_score_shares"),
        "head_scores_tiny",
    }


def test_a_table_of_which_nothing_can_be_drawn_is_an_error(results):
    table = pd.read_csv(results / "cells.csv")
    table.assign(score=np.nan, head_scores=None).to_csv(results / "cells.csv", index=False)
    with pytest.raises(ValueError, match=r"nothing of .* can be drawn: accuracy_vs_budget is left out"):
        save(results, say=lambda line: None)


@pytest.mark.parametrize(("option", "width"), [("column", COLUMN_WIDTH), ("full", FULL_WIDTH)])
def test_the_width_is_an_option(counted, capsys, option, width):
    assert cli.main(["figures", str(counted), "--width", option]) == 0
    printed = capsys.readouterr()
    assert stems(printed.out.splitlines()) == ALL
    assert printed.err == ""
    for path in (counted / "figures").glob("*.png"):
        assert Image.open(path).width == pytest.approx(300 * width, abs=1), path


def test_wrong_decode_times_are_one_line(counted, capsys):
    (counted / "decode.csv").write_text("a,b\n1,2\n")
    for path, message in (
        ("nowhere", "there is no nowhere"),
        (counted / "decode.csv", "lacks the columns shape"),
    ):
        assert cli.main(["figures", str(counted), "--efficiency", str(path)]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
