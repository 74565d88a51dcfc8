"""How much of running text the embedded model reads, as committed and as measured."""

from pathlib import Path

import pandas as pd

from sparsemm.heads import reads

ROOT = Path(__file__).parents[2] / "results" / "head_scores"


def test_the_table_is_measured_in_the_form_that_is_committed(monkeypatch):
    monkeypatch.setattr(reads, "SIZES", ((192, 128),))
    table, committed = reads.read_running(2), pd.read_csv(ROOT / "tiny.running_text.csv")
    assert table.columns.tolist() == committed.columns.tolist()
    assert table[["width", "height", "tokens", "n"]].values.tolist() == [[192, 128, 96, 2]]
    assert 0 < table["character_error"].item() <= 1.5
    assert [(row.width, row.height) for row in committed.itertuples()] == [
        (192, 128), (192, 192), (256, 192), (192, 256), (288, 256)
    ]  # fmt: skip


def test_the_readme_says_what_was_measured():
    error = pd.read_csv(ROOT / "tiny.running_text.csv")["character_error"]
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    common = pd.read_csv(ROOT / "tiny.overlap_pictures.csv").set_index("heads")["common"]
    assert f"{common[6]} of the best 6 and {common[13]} of the best 13 are common" in readme
    assert f"gets {100 * error.min():.0f} to {error.max():.0%} of the characters wrong" in readme
