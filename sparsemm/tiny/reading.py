"""How well a checkpoint reads: look-ups and transcription of unseen pages, by font and page size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparsemm.documents import HELD_OUT_FONT, Page, make_page
from sparsemm.tiny.vocabulary import OCR_PROMPT, lookup_question

FIRST_SEED = 1_000_000
"""Tasks draw pages of the evaluation split below this seed, head scores from 2,000,000 on."""


@dataclass(frozen=True)
class Reading:
    """Scores on n pages, all shares in 0..1.

    ``lines_found``: reference lines that the transcription holds exactly, over all lines;
    ``character_error``: edit distance
    over reference characters; ``transcription``: pages without any error; ``lookup``: values given exactly.
    """

    tokens: int
    font: str
    n: int
    lookup: float
    lines_found: float
    character_error: float
    transcription: float


def generate(
    model: Any,
    processor: Any,
    images: list[Image.Image],
    questions: list[str],
    max_new_tokens: int,
) -> list[str]:
    """Greedy answers to one question per image, as any user of transformers would ask."""
    chats = [
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        for question in questions
    ]
    prompts = processor.apply_chat_template(chats, add_generation_prompt=True, tokenize=False)
    inputs = processor(text=prompts, images=images, padding=True, return_tensors="pt").to(model.device)
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def score(pages: list[Page], answers: list[str], transcriptions: list[str], font: str) -> Reading:
    """Compare answers (to each page's first field) and transcriptions with the pages."""
    from rapidfuzz.distance import Levenshtein  # not on a bare GPU machine, where only training runs

    lines = [
        (line, text.split("\n"))
        for page, text in zip(pages, transcriptions, strict=True)
        for line in page.text.split("\n")
    ]
    edits = [Levenshtein.distance(page.text, text) for page, text in zip(pages, transcriptions, strict=True)]
    return Reading(
        tokens=pages[0].tokens,
        font=font,
        n=len(pages),
        lookup=sum(page.fields[0][1] == answer for page, answer in zip(pages, answers, strict=True))
        / len(pages),
        lines_found=sum(line in found for line, found in lines) / len(lines),
        character_error=sum(edits) / sum(len(page.text) for page in pages),
        transcription=sum(edit == 0 for edit in edits) / len(pages),
    )


def evaluate_reading(
    checkpoint: str | Path,
    *,
    tokens: tuple[int, ...] = (32, 64, 96, 144),
    fonts: tuple[str, ...] = ("seen", HELD_OUT_FONT),
    n: int = 256,
    batch_size: int = 32,
    device: str = "cpu",
) -> list[Reading]:
    """Read n unseen pages per page size and font; ``"seen"`` mixes ``SEEN_FONTS`` by seed.

    Returns
    -------
    list of Reading
        One per (tokens, font), in that order.
    """
    model: Any = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float32)
    model.to(device).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    readings = []
    for size in tokens:
        for font in fonts:
            face = None if font == "seen" else font
            seeds = range(FIRST_SEED, FIRST_SEED + n)
            pages = [make_page(seed, split="eval", tokens=size, font=face) for seed in seeds]
            answers, transcriptions = [], []
            for start in tqdm(range(0, n, batch_size), desc=f"{size} tokens, {font}", unit="batch"):
                some = pages[start : start + batch_size]
                images = [page.image for page in some]
                answers += generate(
                    model, processor, images, [lookup_question(p.fields[0][0]) for p in some], 8
                )
                longest = max(len(page.text) for page in some)
                transcriptions += generate(model, processor, images, [OCR_PROMPT] * len(some), longest + 16)
            readings.append(score(pages, answers, transcriptions, font))
    return readings
