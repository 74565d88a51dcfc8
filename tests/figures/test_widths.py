"""Nothing of any figure is cut off, whether it is drawn for a column or for a page."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sparsemm.figures import (
    accuracy_vs_budget,
    accuracy_vs_realised_budget,
    allocation_heatmap,
    decode_vs_context,
    differences_vs_budget,
    head_concentration,
    head_scores,
    latencies,
    mask_ablation,
    overall_score,
    published_for,
    reproduction_delta,
    score_vs_latency,
    score_vs_memory,
)
from sparsemm.figures.style import WIDTHS
from sparsemm.heads import HeadScores
from sparsemm.heads.concentration import rank_agreement, top_share
from tests.figures.test_decode import made_up

HITS = np.random.default_rng(0).random((80, 8, 8)).astype(np.float32) ** 6


def concentration(width: float) -> Any:
    scores = HeadScores(HITS, {})
    return head_concentration(
        top_share(scores, resamples=50), rank_agreement(scores, draws=10), title="tiny", width=width
    )


FIGURES: dict[str, Callable[[Callable[[str], Any], float], Any]] = {
    "accuracy": lambda data, width: accuracy_vs_budget(
        data("official"), published=published_for(data("official")), width=width
    ),
    "realised": lambda data, width: accuracy_vs_realised_budget(data("measured"), width=width),
    "memory": lambda data, width: score_vs_memory(data("measured"), width=width),
    "latency": lambda data, width: score_vs_latency(
        next(latencies(data("measured"), data("decode"))), width=width
    ),
    "overall": lambda data, width: overall_score(data("official"), width=width),
    "delta": lambda data, width: reproduction_delta(data("official"), width=width),
    "allocation": lambda data, width: allocation_heatmap(data("allocations"), width=width),
    "ablation": lambda data, width: mask_ablation(data("masked"), width=width),
    "differences": lambda data, width: differences_vs_budget(data("comparisons"), width=width),
    "decode": lambda data, width: decode_vs_context(made_up("NVIDIA H100"), published=True, width=width),
    "heads": lambda data, width: head_scores(HITS[0], title="head scores of a model", width=width),
    "concentration": lambda data, width: concentration(width),
}


@pytest.mark.parametrize("width", list(WIDTHS))
@pytest.mark.parametrize("name", list(FIGURES))
def test_legends_labels_and_panels_lie_inside(request, name, width):
    figure = FIGURES[name](request.getfixturevalue, WIDTHS[width])
    figure.savefig(io.BytesIO(), format="png")
    assert figure.get_figwidth() == WIDTHS[width]
    boxes = [axes.get_tightbbox() for axes in figure.axes if axes.get_visible()]
    boxes += [legend.get_window_extent() for legend in figure.legends]
    boxes += [text.get_window_extent() for text in figure.texts]
    for box in boxes:
        assert box is not None
        assert figure.bbox.padded(1).contains(*box.min), (box, figure.bbox)
        assert figure.bbox.padded(1).contains(*box.max), (box, figure.bbox)
