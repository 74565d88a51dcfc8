"""Running text: real sentences in reading order, boxes on their ink after the perspective."""

import hashlib
import itertools
import random
import subprocess
import sys

import numpy as np
import pytest

from sparsemm.documents import RUNNING_VERSION, make_running_page
from sparsemm.documents.camera import Camera, homography
from sparsemm.documents.columns import lay_columns
from sparsemm.documents.prose import load_prose
from sparsemm.documents.running import _name, picture

SMALL, TALL = (256, 192), (640, 880)
CASES = [*((seed, SMALL) for seed in range(5)), *((seed, TALL) for seed in range(3))]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[1][0]}-{case[0]}")
def drawn(request):
    seed, size = request.param
    page = make_running_page(seed, size=size)
    bare, camera = picture(seed, size, [])
    return page, bare, camera


def test_boxes_hold_the_ink_and_nothing_else_does(drawn):
    """The page less the same page without its text."""
    page, bare, _ = drawn
    assert page.image.size == bare.size
    inked = np.asarray(bare, dtype=int)[..., 0] - np.asarray(page.image, dtype=int)[..., 0] > 60
    covered = np.zeros_like(inked)
    for word in itertools.chain(*page.lines):
        left, top, right, bottom = word.box
        assert 0 <= left < right <= page.image.width
        assert 0 <= top < bottom <= page.image.height
        here = inked[top:bottom, left:right]
        assert here.any(), f"no ink in the box of {word.text}"
        # ink reaches every side of its box but for what the perspective and the blur take
        rows, columns = np.nonzero(here.any(1))[0], np.nonzero(here.any(0))[0]
        slack = 4 + 0.05 * max(right - left, bottom - top)
        ends = (rows[0], columns[0], bottom - top - 1 - rows[-1], right - left - 1 - columns[-1])
        assert max(ends) <= slack, word.text
        covered[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1] = True
    assert inked.any()
    assert not (inked & ~covered).any()


def test_no_two_words_overlap(drawn):
    page, _, _ = drawn
    boxes = np.array([word.box for word in itertools.chain(*page.lines)])
    left = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    right = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    area = np.clip(right - left, 0, None).prod(axis=-1)
    own = area.diagonal().copy()
    np.fill_diagonal(area, 0)
    assert (area.max(axis=1) <= 0.1 * own).all()  # upright boxes around slanted words touch at their rims


def test_lines_stand_in_reading_order(drawn):
    page, _, _ = drawn
    columns = 1
    for above, below in itertools.pairwise(page.lines):
        starts = [word.box[0] for word in below]
        assert starts == sorted(starts)
        if below[0].box[1] < above[0].box[1]:  # the next column begins: to the right of all before it
            columns += 1
            assert below[0].box[0] > above[0].box[2]
        else:
            assert below[0].box[3] > above[-1].box[1]
    assert columns <= 3


def test_the_text_is_sentences():
    """What a line holds between two ends of sentences stands so in the file."""
    known = " ".join(" ".join(passage) for passage in load_prose().passages)
    longest = 0
    for seed in range(10):
        lines = [" ".join(word.text for word in line) for line in lay_columns(random.Random(seed), 960, 1280)]
        longest = max(longest, len(" ".join(lines).split()))
        for line in lines:
            parts = line.replace("? ", "?|").replace(". ", ".|").split("|")
            assert line in known or all(part in known for part in parts), line
    assert 200 < longest < 1000


def test_several_columns_sizes_and_alignments_are_drawn():
    columns, sizes = set(), set()
    for seed in range(12):
        lines = lay_columns(random.Random(seed), 960, 1280)
        sizes |= {word.font.size for line in lines for word in line}
        starts = [line[0].origin for line in lines]
        columns.add(1 + sum(below[1] < above[1] for above, below in itertools.pairwise(starts)))
    assert columns >= {1, 2}
    assert len(sizes) > 8


def test_a_box_follows_the_perspective():
    """A white sheet with one black rectangle: its ink is where the camera says."""
    camera = Camera(np.random.default_rng(3), 400, 500)
    sheet = np.full((500, 400, 3), 255.0, dtype=np.float32)
    sheet[330:350, 40:360] = 0
    image = camera.photograph(sheet, np.full_like(sheet, 255))
    rows, columns = np.nonzero(np.asarray(image)[..., 0] < 110)
    left, top, right, bottom = camera.moved((40, 330, 360, 350))
    assert (left, top, right, bottom) != (40, 330, 360, 350)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert np.abs(np.array(found) - (left, top, right, bottom)).max() <= 2


def test_a_homography_takes_corners_to_corners():
    before, after = [(0, 0), (9, 0), (9, 7), (0, 7)], [(1, 2), (8, 1), (9, 9), (0, 6)]
    moved = np.array([(x, y, 1) for x, y in before]) @ homography(before, after).T
    np.testing.assert_allclose(moved[:, :2] / moved[:, 2:], after, atol=1e-9)


def test_another_process_draws_the_same_page():
    code = (
        "import hashlib\n"
        "from sparsemm.documents import make_running_page\n"
        "page = make_running_page(5, size=(256, 192))\n"
        "print(hashlib.sha256(page.image.tobytes() + repr(page.lines).encode()).hexdigest())"
    )
    page = make_running_page(5, size=SMALL)
    mine = hashlib.sha256(page.image.tobytes() + repr(page.lines).encode()).hexdigest()
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == mine
    assert make_running_page(6, size=SMALL).image.tobytes() != page.image.tobytes()


def test_text_of_a_seed_never_changes():
    """Another text needs a new RUNNING_VERSION."""
    text = "\n\n".join(make_running_page(seed, size=SMALL).text for seed in range(8))
    assert (RUNNING_VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == (1, "2578b83c1ad1500d")
    assert _name(3, SMALL) == "running/1/3/256x192"


def test_the_file_of_the_prose_is_named():
    prose = load_prose()
    assert sum(map(len, prose.passages)) > 500
    assert set(prose.facts["text"]) == {"file", "version", "sha256"}
    assert all(sentence[0].isupper() for passage in prose.passages for sentence in passage)


def test_a_page_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match=r"at least 128 pixels to a side, got \[64, 200\]"):
        make_running_page(0, size=(64, 200))
