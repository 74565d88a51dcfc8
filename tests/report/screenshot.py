"""The picture in docs/report.md: ``python -m tests.report.screenshot docs/report.png``."""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from sparsemm.report import write_report
from tests.report.browser import launched, opened

ROOT = Path(__file__).parents[2]
PLACE = "#task=tiny_chartqa&show=lost&line=SnapKV&column=12&at=explorer"
HEADER = 50
"""Pixels of the bar that stays at the top."""


def main(output: Path) -> None:
    """Charts above, samples below, in one picture."""
    with tempfile.TemporaryDirectory() as folder, launched() as browser:
        report = write_report(ROOT / "results" / "tiny", Path(folder) / "report.html")
        shots = []
        for selector, start, height in (("#accuracy", 0, 750), ("#explorer", HEADER, 600)):
            with opened(browser, report.as_uri() + PLACE, viewport={"width": 1280, "height": 900}) as (
                page,
                _,
            ):
                box = page.locator(selector).bounding_box()
                assert box is not None
                top = page.evaluate("scrollY") + box["y"]
                page.evaluate(f"scrollTo(0, {top - 60})")
                page.wait_for_timeout(500)
                shot = Path(folder) / "shot.png"
                page.screenshot(path=shot, clip={"x": 0, "y": start, "width": 1280, "height": height})
                shots.append(Image.open(shot).convert("RGB"))
    whole = Image.new("RGB", (1280, sum(shot.height for shot in shots)))
    whole.paste(shots[0], (0, 0))
    whole.paste(shots[1], (0, shots[0].height))
    whole.save(output, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
