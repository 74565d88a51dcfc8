"""Attention laid over a picture: what is drawn where."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from sparsemm.figures import attention_on_image
from sparsemm.heads.attention import AttentionMaps


@pytest.fixture
def attention() -> AttentionMaps:
    """Two tokens, three heads, six cells on a picture of 48 x 32 pixels."""
    maps = torch.arange(36, dtype=torch.float32).reshape(2, 3, 2, 3) / 500
    return AttentionMaps(maps, ("1-0", "0-2", "0-1"), ("4", "2"), "42", "What?", Image.new("RGB", (48, 32)))


def overlays(figure: Figure) -> dict[str, Any]:
    """Titles and strengths of the panels that show something."""
    shown: list[Any] = [axes for axes in figure.axes if axes.images]
    return {axes.get_title(): axes.images[1].get_alpha() for axes in shown}


def test_one_row_of_all_heads_by_default(attention):
    figure = attention_on_image(attention)
    assert [axes.get_title() for axes in figure.axes] == ["1-0: 14%", "0-2: 21%", "0-1: 28%"]
    panels: list[Any] = list(figure.axes)
    for axes, expected in zip(panels, attention.maps.mean(dim=0).numpy(), strict=True):
        np.testing.assert_allclose(axes.images[1].get_alpha(), 0.85 * expected / expected.max(), rtol=1e-6)
        assert axes.images[1].get_extent() == [0, 48, 32, 0]
        assert axes.images[0].get_array().shape == (32, 48)
    assert figure.get_suptitle() == "What?  →  42"


def test_rows_of_heads_and_single_tokens(attention):
    rows = {"visual": ["0-1", "1-0"], "other": ["0-2"]}
    figure = attention_on_image(attention, rows, tokens=[1])
    assert list(overlays(figure)) == ["0-1: 39%", "1-0: 25%", "0-2: 32%"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["visual", "", "other", ""]
    assert not figure.axes[3].axison
    assert figure.get_suptitle() == "What?  →  2"


def test_a_head_that_never_looks_leaves_the_picture_bare(attention):
    attention.maps[:, 0] = 0
    figure = attention_on_image(attention)
    assert not overlays(figure)["1-0: 0%"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": {"visual": ["7-7"]}}, "no attention of head 7-7; there is that of 1-0, 0-2, 0-1"),
        ({"tokens": [2]}, r"tokens must be from 0 to 1, got \[2\]"),
        ({"tokens": []}, "tokens must be from 0 to 1"),
    ],
)
def test_what_is_not_there_is_refused(attention, options, message):
    with pytest.raises(ValueError, match=message):
        attention_on_image(attention, **options)
