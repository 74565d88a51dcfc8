from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparsemm.figures import allocation_heatmap
from sparsemm.figures.allocation import heatmap_rows
from tests.figures.test_differences import inside


def maps(figure) -> list[np.ndarray]:
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def test_nominal_stands_above_kept_and_documents_of_all_tasks_count_alike(allocations):
    figure: Any = allocation_heatmap(allocations)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["SnapKV", "SparseMM", "Random\nseed 0"]
    assert figure.get_suptitle() == "tiny, budget 32"
    *nominal, _, _, kept = [maps(figure)[number] for number in (0, 1, 2, 3, 5, 4)]
    np.testing.assert_array_equal(nominal[0], 32)
    wanted = 32 + 8 * (np.arange(8).reshape(4, 2) - 3.5)
    np.testing.assert_allclose(nominal[1], wanted)
    np.testing.assert_allclose(nominal[2], 32 + 4 * (np.arange(8).reshape(4, 2) - 3.5))  # the first seed
    np.testing.assert_allclose(kept, (100 * wanted + 300 * np.minimum(wanted, 50)) / 400)
    inside(figure)


@pytest.mark.parametrize("width", [6.9, 3.35])
def test_many_methods_and_large_models_fit(allocations, width):
    one = allocations[allocations["method"] == "snapkv"]
    layers = [one.assign(layer=one["layer"] + 4 * block) for block in range(7)]
    names = ("streaming_llm", "snapkv", "pyramidkv", "adakv", "sparsemm", "sparsemm_layer_mean", "random")
    figure: Any = allocation_heatmap(
        pd.concat([pd.concat(layers).assign(method=name) for name in names]), width=width
    )
    assert len(maps(figure)) == 14
    inside(figure)


def test_the_middle_budget_that_evicts_is_drawn_of_the_main_methods(allocations):
    full = allocations[allocations["method"] == "snapkv"].assign(method="fullkv", budget=np.nan, kept=200.0)
    some = [allocations.assign(budget=budget, kept=budget) for budget in (16.0, 32.0, 64.0, 320.0)]
    some[-1]["kept"] = 200.0
    controls = allocations.assign(method="sparsemm_flat", budget=32.0)
    rows = heatmap_rows(pd.concat([full, *some, controls]))
    assert set(rows["budget"]) == {32.0}
    assert set(rows["method"]) == {"snapkv", "sparsemm", "random"}
    assert heatmap_rows(full).empty


def test_what_cannot_be_drawn_is_said(allocations):
    with pytest.raises(ValueError, match="needs the columns kept"):
        allocation_heatmap(allocations.drop(columns="kept"))
    with pytest.raises(ValueError, match="rows with a budget"):
        allocation_heatmap(allocations.assign(budget=np.nan))
    with pytest.raises(ValueError, match="several values of budget"):
        allocation_heatmap(pd.concat([allocations, allocations.assign(budget=16.0)]))
