"""The tokens of a box are exactly those whose input changes when the pixels inside the box change."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Blip2Config

from sparsemm.models import ImageTokens, image_tokens
from tests.families import GEOMETRIES, VISUAL, build
from tests.models.pixels import OPTIONS, ask, changed, dark, inverted

Box = tuple[int, int, int, int]
families = pytest.mark.parametrize("family", VISUAL)

# Sizes (width, height) that a family's processor passes on pixel by pixel, its overview excepted.
UNSCALED: dict[str, list[tuple[int, int]]] = {
    "llava": [(32, 32), (32, 45), (61, 32), (96, 32)],
    "llava_next": [(32, 32), (64, 32), (32, 64)],
    "llava_onevision": [(16 * columns, 16 * rows) for columns in (1, 2, 3) for rows in (1, 2, 3)],
    "qwen2_vl": [(8 * columns, 8 * rows) for columns in (1, 2, 5, 8) for rows in (1, 3, 8)],
    "internvl": [(16, 16), (32, 16), (16, 32), (48, 16), (32, 32), (16, 64)],
    "idefics3": [(32, 32), (32, 16), (16, 32)],
    "paligemma": [(16, 16)] * 2,
    "gemma3": [(16, 16), (32, 16), (16, 32), (48, 16), (64, 16)],
}
UNSCALED |= {"llava_next_mistral": UNSCALED["llava_next"], "smolvlm": UNSCALED["idefics3"]}
UNSCALED |= {"qwen2_5_vl": UNSCALED["qwen2_vl"], "qwen3_vl": UNSCALED["qwen2_vl"]}

# How far the filters of a processor reach to each side, in pixels of the image or the view: the larger ones.
BICUBIC = 2
REACH = {"idefics3": 9, "smolvlm": 9, "idefics": 9}  # Lanczos (3), up to three times over


@st.composite
def boxes(draw: Any, width: int, height: int, least: int = 1) -> Box:
    """A box of at least `least` pixels a side, borders included."""
    left, top = draw(st.integers(0, width - least)), draw(st.integers(0, height - least))
    return left, top, draw(st.integers(left + least, width)), draw(st.integers(top + least, height))


def tokens_of(family: str, inputs: Any, sizes: list[list[tuple[int, int]]]) -> list[list[ImageTokens]]:
    model, processor = build(family)
    return image_tokens(model.config, processor, inputs, sizes, **OPTIONS.get(family, {}))


@families
@settings(max_examples=50)
@given(data=st.data())
def test_a_box_has_the_tokens_that_change_with_its_pixels(family: str, data: Any) -> None:
    """No filter between the pixels and the patches: to the token."""
    size = data.draw(st.sampled_from(UNSCALED[family]))
    box = data.draw(boxes(*size))
    before, after = ask(family, [[dark(size)]]), ask(family, [[inverted(dark(size), box)]])
    [[tokens]] = tokens_of(family, before, [[size]])
    [different] = changed(family, before, after)
    if bool(tokens.base.any()):
        overview = set(tokens.positions[tokens.base].tolist())
        assert set(different) & overview, "the overview sees all of the image"
        different = [position for position in different if position not in overview]
    assert tokens.of_box(box) == different


@families
@settings(max_examples=50)
@given(data=st.data())
def test_resized_images_map_as_near_as_their_filter_lets_one_see(family: str, data: Any) -> None:
    assert_between(family, (data.draw(st.integers(9, 100)), data.draw(st.integers(9, 100))), data)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", GEOMETRIES)
@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_images_of_real_sizes_in_patches_of_real_sizes(checkpoint: str, data: Any) -> None:
    """Grids that do not divide a tile, large grids pooled, tiles by the dozen."""
    assert_between(checkpoint, (data.draw(st.integers(100, 1600)), data.draw(st.integers(100, 1600))), data)


def assert_between(family: str, size: tuple[int, int], data: Any) -> None:
    """All views: what changes lies between the tokens of a slightly smaller and a slightly larger box."""
    box = data.draw(boxes(*size, least=max(3, min(size) // 20)))
    picture = dark(size)
    before, after = ask(family, [[picture]]), ask(family, [[inverted(picture, box)]])
    [[tokens]] = tokens_of(family, before, [[size]])
    [different] = changed(family, before, after)
    left, top, right, bottom = box
    for base in (True, False):
        # A filter reaches into padding, too: tokens that see nothing but that are left aside.
        chosen = (tokens.base == base) & ~tokens.boxes.isnan().any(dim=1)
        if not bool(chosen.any()):
            continue
        view = ImageTokens(tokens.positions[chosen], tokens.boxes[chosen], torch.tensor([False]))
        # A token is at least four pixels of its view wide: one pixel is at most so many of the image.
        x, y = ((view.boxes[:, 2:] - view.boxes[:, :2]).amax(dim=0) / 4).tolist()
        seen = set(different) & set(view.positions.tolist())
        inner = (left + x, top + y, right - x, bottom - y)
        if inner[0] < inner[2] and inner[1] < inner[3]:
            assert set(view.of_box(inner, "all")) <= seen
        x, y = (REACH.get(family.split()[0], BICUBIC) * max(1.0, pixel) + 1 for pixel in (x, y))
        assert seen <= set(view.of_box((left - x, top - y, right + x, bottom + y), "all"))


@families
@settings(max_examples=15)
@given(data=st.data())
def test_rows_and_images_are_told_apart(family: str, data: Any) -> None:
    """Two images in the first row, one in the second; each time only one of the three changes."""
    sizes = [[UNSCALED[family][0], UNSCALED[family][-1]], [UNSCALED[family][1]]]
    if family == "llava_onevision":  # pads images that come together to squares and scales them to a tile
        sizes = [[(16, 12), (8, 16)], [(32, 16)]]
    pictures = [[dark(size, seed) for seed, size in enumerate(row)] for row in sizes]
    before = ask(family, pictures)
    tokens = tokens_of(family, before, sizes)
    row, number = data.draw(st.sampled_from([(0, 0), (0, 1), (1, 0)]))
    box = data.draw(boxes(*sizes[row][number]))
    other = [[image.copy() for image in images] for images in pictures]
    other[row][number] = inverted(other[row][number], box)
    different = changed(family, before, ask(family, other))
    assert different[1 - row] == []
    found = tokens[row][number]
    assert set(different[row]) <= set(found.positions.tolist())
    overview = set(found.positions[found.base].tolist())
    assert [position for position in different[row] if position not in overview] == found.of_box(box)


@families
def test_a_batch_maps_as_its_rows_do(family: str) -> None:
    sizes = [[UNSCALED[family][-1]], [UNSCALED[family][0]]]
    pictures = [[dark(size) for size in row] for row in sizes]
    together = ask(family, pictures)
    batch = tokens_of(family, together, sizes)
    for row in range(2):
        [[alone]] = tokens_of(family, ask(family, [pictures[row]]), [sizes[row]])
        padding = int((together["attention_mask"][row] == 0).sum())
        assert torch.equal(batch[row][0].positions, alone.positions + padding)
        torch.testing.assert_close(batch[row][0].boxes, alone.boxes, equal_nan=True)


def test_views_can_be_chosen() -> None:
    size = (32, 16)
    inputs = ask("internvl", [[dark(size)]])
    [[tokens]] = tokens_of("internvl", inputs, [[size]])
    everything = (0, 0, *size)
    tiles, base = tokens.of_box(everything), tokens.of_box(everything, "base")
    assert (len(tiles), len(base)) == (8, 4)
    assert sorted(tiles + base) == tokens.of_box(everything, "all")
    with pytest.raises(ValueError, match="views must be tiles, base or all, got 'thumbnail'"):
        tokens.of_box(everything, "thumbnail")  # pyright: ignore[reportArgumentType]


def test_a_single_view_always_counts() -> None:
    inputs = ask("qwen2_vl", [[dark((16, 16))]])
    [[tokens]] = tokens_of("qwen2_vl", inputs, [[(16, 16)]])
    assert tokens.of_box((0, 0, 1, 1), "base") == tokens.of_box((0, 0, 1, 1)) != []


def test_pixels_that_are_cut_off_have_no_tokens() -> None:
    inputs = ask("llava", [[dark((64, 32))]])
    [[tokens]] = tokens_of("llava", inputs, [[(64, 32)]])
    assert tokens.of_box((0, 0, 16, 32)) == []
    assert len(tokens.of_box((16, 0, 48, 32))) == 16


@pytest.mark.parametrize(
    ("family", "option"),
    [("internvl", "crop_to_patches"), ("idefics3", "do_image_splitting"), ("gemma3", "do_pan_and_scan")],
)
def test_options_of_the_call_count(family: str, option: str) -> None:
    """An image that was not split; and a clear line where the mapping is not told so."""
    model, processor = build(family)
    inputs = ask(family, [[dark((48, 16))]], **{option: False})
    [[tokens]] = image_tokens(model.config, processor, inputs, [[(48, 16)]], **{option: False})
    assert tokens.of_box((0, 0, 1, 1)) == [int(tokens.positions[0])]
    assert len(tokens.positions) == 4
    with pytest.raises(ValueError, match=r"row 0 has 4 image tokens, .*options that the processor"):
        image_tokens(model.config, processor, inputs, [[(48, 16)]], **OPTIONS.get(family, {}))


@pytest.mark.parametrize("size", [(100, 38), (38, 100), (90, 70)])
def test_tiles_that_do_not_divide_the_longest_side(size: tuple[int, int]) -> None:
    """Idefics3 stretches the image once more; then there may be another row of tiles."""
    inputs = ask("idefics3 uneven", [[dark(size)]])
    [[tokens]] = tokens_of("idefics3 uneven", inputs, [[size]])
    assert len(tokens.of_box((0, 0, *size), "all")) == len(tokens.positions)


def test_wrong_input_is_refused() -> None:
    model, processor = build("qwen2_vl")
    inputs = ask("qwen2_vl", [[dark((16, 16))]])
    with pytest.raises(ValueError, match="given for 2 rows, the batch has 1"):
        image_tokens(model.config, processor, inputs, [[(16, 16)], []])
    with pytest.raises(ValueError, match="row 0 has 4 image tokens, images of the 0 given sizes have 0"):
        image_tokens(model.config, processor, inputs, [[]])
    with pytest.raises(ValueError, match=r"'blip-2' model .* is not known; known: gemma3, idefics3"):
        image_tokens(Blip2Config(), processor, inputs, [[(16, 16)]])
