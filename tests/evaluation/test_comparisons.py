"""Paired differences: what they are, what they are not made from, and the parts that add up."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparsemm.evaluation.comparisons import COMPARISON_COLUMNS, METHODS, comparisons
from sparsemm.evaluation.results import derive_tables, write_cell

N = 40
RNG = np.random.default_rng(0)


def cell(
    method: str, budget: int | None, scores, *, kept: int = 0, seed: int = 0, **labels: Any
) -> dict[str, Any]:
    row = {"model": "tiny", "task": "tiny_ocr", "metric": "made", "method": method, "budget": budget}
    row |= {"score": float(np.mean(scores)), "n_uncompressed": kept, "seed": seed, "prompt": "image_question"}
    row |= labels
    samples = {"doc_id": list(range(N)), "response": [""] * N, "score": [float(value) for value in scores]}
    samples |= {"image": [f"image {number // 2}" for number in range(N)]}  # two documents each
    name = "-".join(map(str, (method, budget, seed, *labels.values())))
    return {"id": name, "group": "g", "row": row, "samples": samples}


def hits(share: float) -> np.ndarray:
    return (RNG.random(N) < share).astype(float)


FULL = cell("fullkv", None, hits(0.95))
GRID = [
    cell(method, budget, hits(share))
    for method, share in (("sparsemm", 0.8), ("sparsemm_layer_mean", 0.6), ("sparsemm_flat", 0.3))
    for budget in (16, 32)
]


def rows(cells) -> dict[tuple[str, str, float | None], dict[str, Any]]:
    return {(row["method"], row["reference"], row["budget"]): row for row in comparisons(cells, FULL)}


def test_the_gain_is_the_sum_of_its_parts():
    found = rows([FULL, *GRID])
    assert len(found) == 3 * 3
    for budget in (16, 32, None):
        whole = found["sparsemm", "sparsemm_flat", budget]
        layers = found["sparsemm_layer_mean", "sparsemm_flat", budget]
        heads = found["sparsemm", "sparsemm_layer_mean", budget]
        assert whole["difference"] == pytest.approx(layers["difference"] + heads["difference"])
        assert whole["ci_low"] < whole["difference"] < whole["ci_high"]
        assert whole["budgets"] == (1 if budget else 2)
        assert set(whole) <= set(COMPARISON_COLUMNS)


def test_an_interval_is_a_paired_bootstrap_over_images():
    found = rows([FULL, *GRID])["sparsemm", "sparsemm_flat", 16]
    gap = np.array(GRID[0]["samples"]["score"]) - np.array(GRID[4]["samples"]["score"])
    assert found["difference"] == pytest.approx(gap.mean())
    by_image = gap.reshape(-1, 2)
    rng = np.random.default_rng(1)
    drawn = [by_image[rng.integers(0, len(by_image), len(by_image))].mean() for _ in range(4000)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    assert (found["ci_low"], found["ci_high"]) == (
        pytest.approx(low, abs=0.03),
        pytest.approx(high, abs=0.03),
    )


def test_seeds_are_averaged_document_by_document():
    seeds = [cell("sparsemm_shuffled", 16, hits(0.2), seed=seed) for seed in (0, 1)]
    found = rows([FULL, *GRID, *seeds])["sparsemm", "sparsemm_shuffled", 16]
    mean = np.mean([one["samples"]["score"] for one in seeds], axis=0)
    assert found["difference"] == pytest.approx((np.array(GRID[0]["samples"]["score"]) - mean).mean())


def test_the_mean_is_over_budgets_that_evicted_from_every_document():
    above = [cell(method, 320, hits(0.9), kept=N) for method in ("sparsemm", "sparsemm_flat")]
    some = [cell(method, 128, hits(0.9), kept=3) for method in ("sparsemm", "sparsemm_flat")]
    found = rows([FULL, *GRID, *above, *some])
    assert ("sparsemm", "sparsemm_flat", 320) in found
    assert found["sparsemm", "sparsemm_flat", None]["budgets"] == 2


def test_what_cannot_be_compared_is_left_out():
    assert comparisons([FULL], FULL) == []
    corpus = [{**one, "row": {**one["row"], "score": 77.0}} for one in GRID]  # no mean of its documents
    assert comparisons([FULL, *corpus], FULL) == []
    for one in (one_image := [dict(one) for one in (FULL, *GRID)]):
        one["samples"] = {**one["samples"], "image": ["the same"] * N}
    assert comparisons(one_image, one_image[0]) == []


def test_ablations_are_compared_at_equal_fractions():
    masked = [
        cell("fullkv", None, hits(share), kept=N, seed=seed, ablation=name, fraction=fraction)
        for name, share, seeds in (("mask_visual", 0.1, 1), ("mask_random", 0.6, 2))
        for fraction in (0.1, 0.2)
        for seed in range(seeds)
    ]
    found = comparisons([FULL, *masked], FULL)
    assert [(row["compared"], row["ablation"], row["reference"], row["fraction"]) for row in found] == [
        ("ablation", "mask_visual", "mask_random", fraction) for fraction in (0.1, 0.2)
    ]
    assert all((row["method"], row["budget"], row["budgets"]) == ("fullkv", None, 0) for row in found)
    random = np.mean([one["samples"]["score"] for one in masked[2:4]], axis=0)
    assert found[0]["difference"] == pytest.approx((np.array(masked[0]["samples"]["score"]) - random).mean())


def test_cells_that_differ_in_more_than_their_seed_are_not_averaged():
    """Another mode of an ablation, or another kernel of a method, under the same name in the same folder."""
    modes = [
        cell("fullkv", None, hits(0.5), kept=N, ablation="mask_visual", fraction=0.1, ablation_params=params)
        for params in ('{"mode": "remove"}', '{"mode": "uniform"}')
    ]
    random = cell("fullkv", None, hits(0.5), kept=N, ablation="mask_random", fraction=0.1)
    assert comparisons([FULL, *modes, random], FULL) == []
    assert len(comparisons([FULL, modes[0], random], FULL)) == 1
    kernels = [
        cell("sparsemm_flat", 16, hits(0.3), method_params=params) for params in ("{}", '{"kernel": 1}')
    ]
    assert comparisons([FULL, GRID[0], *kernels], FULL) == []


def test_prompts_are_compared_under_the_same_method_and_budget():
    after = [
        cell("snapkv", budget, hits(0.3), prompt=prompt)
        for prompt in ("image_question", "question_after_compression")
        for budget in (16, 32)
    ]
    found = comparisons([FULL, *after], FULL)
    assert [(row["compared"], row["reference"], row["budget"], row["budgets"]) for row in found] == [
        ("prompt", "image_question", 16, 1),
        ("prompt", "image_question", 32, 1),
        ("prompt", "image_question", None, 2),
    ]
    assert {row["prompt"] for row in found} == {"question_after_compression"}


def test_the_table_is_derived_with_the_others(tmp_path):
    for one in [cell("fullkv", None, hits(0.9)), *GRID]:
        write_cell(tmp_path, one["id"], one["group"], one["row"], one["samples"])
    derive_tables(tmp_path)
    table = pd.read_csv(tmp_path / "comparisons.csv")
    assert list(table.columns) == list(COMPARISON_COLUMNS)
    assert len(table) == 9
    assert set(zip(table["method"], table["reference"], strict=True)) <= set(METHODS)
    assert set(table["compared"]) == {"method"}
    before = (tmp_path / "comparisons.csv").read_bytes()
    derive_tables(tmp_path)
    assert (tmp_path / "comparisons.csv").read_bytes() == before
