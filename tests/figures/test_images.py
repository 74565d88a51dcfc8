"""Every figure of small fixed data beside a picture of it in ``baseline/``, compared by pytest-mpl.

After an intended change, ``pytest tests/figures/test_images.py --mpl-generate-path=tests/figures/baseline``
draws them anew: look at what changed.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from sparsemm.figures import (
    accuracy_vs_budget,
    accuracy_vs_realised_budget,
    allocation_heatmap,
    attention_on_image,
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
from sparsemm.figures.style import COLUMN_WIDTH, RC
from sparsemm.heads import HeadScores
from sparsemm.heads.attention import AttentionMaps
from sparsemm.heads.concentration import rank_agreement, top_share
from tests.figures.test_decode import made_up

compared = pytest.mark.mpl_image_compare(
    style=RC, savefig_kwargs={"dpi": 50}, tolerance=4, remove_text=False, baseline_dir="baseline"
)


@compared
def test_accuracy_vs_budget(measured):
    return accuracy_vs_budget(measured)


@compared
def test_accuracy_in_a_column(measured):
    return accuracy_vs_budget(measured, width=COLUMN_WIDTH)


@compared
def test_accuracy_beside_the_paper(official):
    two = official[official["model"] != "llava_next_mistral_7b"]
    return accuracy_vs_budget(two, published=published_for(two))


@compared
def test_accuracy_vs_realised_budget(measured):
    return accuracy_vs_realised_budget(measured)


@compared
def test_score_vs_memory(measured):
    return score_vs_memory(measured)


@compared
def test_score_vs_latency(measured, decode):
    return score_vs_latency(list(latencies(measured, decode))[1])


@compared
def test_overall_score(measured):
    return overall_score(measured)


@compared
def test_reproduction_delta(official):
    return reproduction_delta(official[official["model"] == "qwen2_vl_7b"])


@compared
def test_allocation_heatmap(allocations):
    return allocation_heatmap(allocations)


@compared
def test_mask_ablation(masked):
    return mask_ablation(masked)


@compared
def test_differences_vs_budget(comparisons):
    return differences_vs_budget(comparisons)


@compared
def test_decode_vs_context():
    return decode_vs_context(made_up("NVIDIA H100"), published=True)


@compared
def test_head_scores():
    return head_scores(np.random.default_rng(0).random((6, 8)) ** 4, title="head scores of a model")


@compared
def test_head_concentration():
    scores = HeadScores(np.random.default_rng(0).random((80, 8, 8)).astype(np.float32) ** 6, {})
    return head_concentration(
        top_share(scores, resamples=50), rank_agreement(scores, draws=10), title="made up"
    )


@compared
def test_attention_on_image():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 4, 6, generator=generator) ** 4 / 24
    picture = Image.fromarray(np.linspace(80, 255, 96 * 64, dtype=np.uint8).reshape(64, 96)).convert("RGB")
    attention = AttentionMaps(maps, ("1-0", "0-2", "0-1"), ("4", "2"), "42", "What?", picture)
    return attention_on_image(attention, {"visual heads": ["0-1", "1-0"], "other heads": ["0-2"]})
