"""How much of running text the embedded model reads: ``python -m sparsemm.heads.reads FILE.csv``.

Head scores mean something only where the text is read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparsemm.documents import make_running_page
from sparsemm.heads.sources import FIRST_SEED
from sparsemm.recording import write_atomically
from sparsemm.tiny import CHECKPOINT, OCR_PROMPT
from sparsemm.tiny.reading import generate, transcription_scores

SIZES = ((192, 128), (192, 192), (256, 192), (192, 256), (288, 256))
"""Pages of 96 to 288 visual tokens, as many as the model was trained on."""

BATCH = 16


def read_running(n: int) -> pd.DataFrame:
    """Transcribe n pages of each size greedily.

    Returns
    -------
    pandas.DataFrame
        ``width``, ``height`` (pixels), ``tokens`` (visual), ``n``, and what
        `sparsemm.tiny.reading.transcription_scores` gives: ``exact``, ``lines_found``, ``character_error``.
    """
    model: Any = AutoModelForImageTextToText.from_pretrained(
        CHECKPOINT, dtype=torch.float32, trust_remote_code=False
    ).eval()
    processor = AutoProcessor.from_pretrained(CHECKPOINT, trust_remote_code=False)
    rows = []
    for size in tqdm(SIZES, desc="reading", unit="size"):
        pages: list[Any] = [make_running_page(FIRST_SEED + index, size=size) for index in range(n)]
        texts: list[str] = []
        for start in range(0, n, BATCH):
            some = pages[start : start + BATCH]
            limit = 16 + max(len(page.text) for page in some)
            texts += generate(
                model, processor, [page.image for page in some], [OCR_PROMPT] * len(some), limit
            )
        facts = {"width": size[0], "height": size[1], "tokens": size[0] * size[1] // 256, "n": n}
        rows.append({**facts, **transcription_scores(pages, texts)})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, write the table and print it."""
    parser = argparse.ArgumentParser(prog="python -m sparsemm.heads.reads", description=__doc__)
    parser.add_argument("output", type=Path, help="a CSV file")
    parser.add_argument("--n", type=int, default=64, help="pages of each size")
    options = parser.parse_args()
    if options.n < 1:
        parser.error("--n must be at least 1")
    table = read_running(options.n).round(5)
    write_atomically(options.output, lambda beside: table.to_csv(beside, index=False))
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
