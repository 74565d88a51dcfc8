"""How well a checkpoint reads: questions and transcription of unseen pages, by font, size and kind of page.

``python -m sparsemm.tiny.reading results/reader`` measures the embedded checkpoint.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparsemm.documents import HELD_OUT_FONT, KINDS, VERSION, Page, Question, make_page
from sparsemm.recording import git_commit, versions, write_atomically, write_json
from sparsemm.tiny.vocabulary import OCR_PROMPT

FIRST_SEED = 1_000_000
"""Tasks draw pages of the evaluation split below this seed, head scores from 2,000,000 on."""

TRANSCRIBED = ("form", "receipt", "table")
"""Kinds of pages that are transcribed too."""

TOKENS = (96, 144, 192, 288)
CHECKPOINT = Path(__file__).parent / "checkpoint"


@dataclass(frozen=True)
class Reading:
    """Scores on n unseen pages of one size, font and kind; all shares in 0..1.

    Attributes
    ----------
    tokens, font, page : int, str, str
        Visual tokens; ``"seen"`` mixes the training faces; the kind of page.
    asked : str
        Kind of question, or ``ocr`` for the transcription.
    n : int
    exact : float
        Answers, or transcriptions, without any error.
    lines_found : float or None
        Lines that the transcription holds exactly, over all lines; None for questions.
    character_error : float or None
        Edit distance over characters; None for questions.
    """

    tokens: int
    font: str
    page: str
    asked: str
    n: int
    exact: float
    lines_found: float | None = None
    character_error: float | None = None


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


def transcription_scores(pages: list[Page], texts: list[str]) -> dict[str, float]:
    """``exact``, ``lines_found`` and ``character_error`` of the transcriptions of pages."""
    from rapidfuzz.distance import Levenshtein  # not on a bare GPU machine, where only training runs

    lines = [
        (line, text.split("\n"))
        for page, text in zip(pages, texts, strict=True)
        for line in page.text.split("\n")
    ]
    edits = [Levenshtein.distance(page.text, text) for page, text in zip(pages, texts, strict=True)]
    return {
        "exact": sum(edit == 0 for edit in edits) / len(pages),
        "lines_found": sum(line in found for line, found in lines) / len(lines),
        "character_error": sum(edits) / sum(len(page.text) for page in pages),
    }


def one_of_each_kind(page: Page) -> dict[str, Question]:
    """One question of each kind that can be asked about a page, drawn by the page's seed."""
    kinds = dict.fromkeys(question.kind for question in page.questions)
    rng = random.Random(page.seed)
    return {kind: rng.choice([q for q in page.questions if q.kind == kind]) for kind in kinds}


def evaluate_reading(
    checkpoint: str | Path,
    *,
    tokens: tuple[int, ...] = TOKENS,
    fonts: tuple[str, ...] = ("seen", HELD_OUT_FONT),
    kinds: tuple[str, ...] = KINDS,
    n: int = 128,
    batch_size: int = 32,
    device: str = "cpu",
) -> list[Reading]:
    """Read n unseen pages per size, font and kind: one question of each kind a page, and its transcription.

    Returns
    -------
    list of Reading
        In the order of the arguments.
    """
    model: Any = AutoModelForImageTextToText.from_pretrained(
        checkpoint, dtype=torch.float32, trust_remote_code=False
    )
    model.to(device).eval()
    processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=False)

    def answers(asked: list[tuple[Page, str]], limit: int) -> Iterator[str]:
        for start in range(0, len(asked), batch_size):
            some = asked[start : start + batch_size]
            images, questions = [page.image for page, _ in some], [question for _, question in some]
            yield from generate(model, processor, images, questions, limit)

    readings = []
    settings = [(size, font, kind) for size in tokens for font in fonts for kind in kinds]
    for size, font, kind in tqdm(settings, desc="reading", unit="setting"):
        face = None if font == "seen" else font
        seeds = range(FIRST_SEED, FIRST_SEED + n)
        pages = [make_page(seed, kind=kind, split="eval", tokens=size, font=face) for seed in seeds]
        by_kind: dict[str, list[tuple[Page, Question]]] = {}
        for page in pages:
            for asked, question in one_of_each_kind(page).items():
                by_kind.setdefault(asked, []).append((page, question))
        for asked, pairs in by_kind.items():
            limit = 2 + max(len(question.answer) for _, question in pairs)
            given = answers([(page, question.text) for page, question in pairs], limit)
            right = [text == question.answer for text, (_, question) in zip(given, pairs, strict=True)]
            readings.append(Reading(size, font, kind, asked, len(pairs), sum(right) / len(pairs)))
        if kind in TRANSCRIBED:
            limit = 16 + max(len(page.text) for page in pages)
            texts = list(answers([(page, OCR_PROMPT) for page in pages], limit))
            readings.append(Reading(size, font, kind, "ocr", n, **transcription_scores(pages, texts)))
    return readings


def write_readings(path: Path, readings: list[Reading]) -> None:
    """One row per reading, as CSV; written beside and renamed."""

    def write(beside: Path) -> None:
        with beside.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(Reading.__dataclass_fields__))
            writer.writeheader()
            for reading in readings:
                rounded = {
                    name: round(value, 5) if isinstance(value, float) else value
                    for name, value in asdict(reading).items()
                }
                writer.writerow(rounded)

    write_atomically(path, write)


def main() -> None:
    """Measure a checkpoint and write ``readings.csv`` and ``run.json`` into a folder."""
    parser = argparse.ArgumentParser(prog="python -m sparsemm.tiny.reading", description=__doc__)
    parser.add_argument("output", type=Path, help="folder for readings.csv and run.json")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--n", type=int, default=128, help="pages per size, font and kind")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.n < 1:
        parser.error("--n must be at least 1")
    if not (options.checkpoint / "config.json").is_file():
        parser.error(f"no checkpoint in {options.checkpoint}: it holds no config.json")
    options.output.mkdir(parents=True, exist_ok=True)
    readings = evaluate_reading(options.checkpoint, n=options.n, device=options.device)
    write_readings(options.output / "readings.csv", readings)
    facts = {
        "command": f"python -m sparsemm.tiny.reading {options.output.as_posix()} --n {options.n}",
        "documents_version": VERSION,
        "device": options.device,
        "versions": versions(("torch", "transformers", "pillow", "matplotlib")),
        "git_commit": git_commit(),
    }
    write_json(options.output / "run.json", facts)
    for reading in readings:
        print(reading)


if __name__ == "__main__":
    main()
