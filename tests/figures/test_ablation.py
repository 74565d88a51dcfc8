import io
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparsemm.figures import mask_ablation, save
from tests.figures.test_differences import inside


def test_lines_are_means_of_draws_and_bands_their_range(masked):
    figure: Any = mask_ablation(masked)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [panel.get_title() for panel in panels] == ["tiny_docvqa, n = 200", "tiny_ocr, n = 200"]
    for panel, best in zip(panels, (0.9, 0.75), strict=True):
        visual, random, whole = panel.get_lines()
        assert np.asarray(visual.get_xdata()).tolist() == [5, 10, 50]
        np.testing.assert_allclose(visual.get_ydata(), [0.275, 0.25, 0.05])
        np.testing.assert_allclose(random.get_ydata(), 0.6)
        assert set(np.asarray(whole.get_ydata())) == {best}
        shapes: Any = [collection.get_paths()[0].vertices[:, 1] for collection in panel.collections]
        assert [(shape.min(), shape.max()) for shape in shapes] == [(0.0, 0.5), (0.5, pytest.approx(0.7))]
    inside(figure)


def test_what_cannot_be_drawn_is_said(cells, masked):
    with pytest.raises(ValueError, match="needs the columns fraction"):
        mask_ablation(masked.drop(columns="fraction"))
    with pytest.raises(ValueError, match="rows of FullKV with an ablation"):
        mask_ablation(cells.assign(fraction=np.nan))
    with pytest.raises(ValueError, match="several models"):
        mask_ablation(pd.concat([masked, masked.assign(model="other")]))


def test_rows_of_one_point_that_differ_in_more_than_their_seed_are_refused(masked):
    random = (masked["ablation"] == "mask_random").to_numpy()
    mixed = masked.assign(ablation_params="{}")
    mixed.loc[random & (masked["seed"] == 1).to_numpy(), "ablation_params"] = '{"mode": "uniform"}'
    with pytest.raises(ValueError, match="mask_random on tiny_docvqa differ in ablation_params: choose one"):
        mask_ablation(mixed)


def test_ablations_of_other_methods_are_named(results, masked):
    table = pd.read_csv(results / "cells.csv")
    other = table[table["method"] == "snapkv"].assign(ablation="mask_visual", fraction=0.1)
    pd.concat([table, other]).to_csv(results / "cells.csv", index=False)
    with pytest.warns(UserWarning, match="ablations are drawn of FullKV alone, not of snapkv"):
        assert {path.stem for path in save(results)} == {
            *("accuracy_vs_budget", "overall_score", "head_scores_tiny"),
        }


def test_masked_and_query_agnostic_cells_are_drawn_apart(results, masked):
    table = pd.read_csv(results / "cells.csv")
    after = table[table["method"] != "fullkv"].assign(prompt="question_after_compression", score=0.1)
    pd.concat([table, after, masked[masked["ablation"].notna()].assign(schema_version=1)]).to_csv(
        results / "cells.csv", index=False
    )
    assert {path.stem for path in save(results)} == {
        *("accuracy_vs_budget", "accuracy_vs_budget_question_after", "mask_ablation", "head_scores_tiny"),
        *("overall_score", "overall_score_question_after"),
    }


def test_one_task_and_one_ablation_are_enough(masked):
    one = masked[(masked["task"] == "tiny_ocr") & (masked["ablation"] != "mask_random")]
    mask_ablation(one).savefig(io.BytesIO(), format="png")
