"""Bar charts and signs: pictures with text in them."""

from __future__ import annotations

import random
from functools import partial

from sparsemm.documents.question import (
    LARGEST,
    NUMBER,
    SAY,
    Question,
    ask_larger,
    ask_value,
)
from sparsemm.documents.sheet import Colour, Sheet
from sparsemm.documents.words import Split, make_key, make_word, unique


def lay_chart(sheet: Sheet, rng: random.Random, split: Split) -> list[Question]:
    """A bar chart, lying or standing; each bar has a name of two letters and its value printed at its end."""
    fill: Colour = (rng.randint(120, 230), rng.randint(120, 230), rng.randint(120, 230))
    names: set[str] = set()
    draw = _lying if rng.random() < 0.5 else _standing
    most = sheet.rows - 1 if draw is _lying else (sheet.columns - 1) * 16 // 32
    count = rng.randint(3, max(3, min(8, most)))
    bars = [unique(partial(make_key, rng, split, 2), names) for _ in range(count)]
    # values differ by at least three, so that the longest bar is seen to be
    values = rng.sample(range(5, 99, 3), count)
    draw(sheet, rng, split, bars, values, fill)
    amounts = dict(zip(bars, values, strict=True))
    questions = [ask_value(bar, str(value)) for bar, value in amounts.items()]
    for _ in range(3):
        one, other = rng.sample(bars, 2)
        questions.append(ask_larger(one, other, max(one, other, key=amounts.__getitem__)))
    questions.append(Question("largest", LARGEST, max(amounts, key=amounts.__getitem__)))
    return questions


def _lying(
    sheet: Sheet, rng: random.Random, split: Split, bars: list[str], values: list[int], fill: Colour
) -> None:
    step = rng.randint(1, max(1, min(3, (sheet.rows - 1) // len(bars))))
    row = rng.randint(0, max(0, sheet.rows - 1 - step * len(bars)))
    sheet.write(row, rng.randint(0, 24), make_word(rng, split, 8))
    longest = sheet.width - 34 - sheet.width_of("88") - 6
    for place, (bar, value) in enumerate(zip(bars, values, strict=True)):
        at = row + 1 + place * step
        sheet.write(at, 2, bar)
        end = 34 + max(2, longest * value // max(values))
        sheet.bar(34, at * 16 + 3, end, at * 16 + 14, fill)
        sheet.write(at, end + 4, str(value))


def _standing(
    sheet: Sheet, rng: random.Random, split: Split, bars: list[str], values: list[int], fill: Colour
) -> None:
    pitch = rng.choice([width for width in (32, 48) if width * len(bars) <= sheet.width] or [32])
    foot = rng.randint(min(sheet.rows - 1, 5), sheet.rows - 1)  # the row of the names
    top = 2  # below the title and the highest bar's value
    title = make_word(rng, split, 8)
    sheet.write(0, rng.randint(0, 24), title)
    longest = (foot - top) * 16
    left = rng.randint(0, sheet.width - pitch * len(bars)) // 16 * 16
    for place, (bar, value) in enumerate(zip(bars, values, strict=True)):
        x = left + place * pitch
        sheet.write(foot, x + rng.randint(1, 3), bar)
        y = foot * 16 - max(2, longest * value // max(values))
        sheet.bar(x + 2, y, x + pitch - 8, foot * 16, fill)
        sheet.write(y // 16 - 1, x + 4, str(value))


def sign_colours(rng: random.Random) -> tuple[Colour, Colour]:
    """Paper and ink of a sign: any colours far enough apart to be read, either the darker."""

    def shade(low: int, high: int) -> Colour:
        return (rng.randint(low, high), rng.randint(low, high), rng.randint(low, high))

    light, dark = shade(165, 255), shade(0, 80)
    return (light, dark) if rng.random() < 0.6 else (dark, light)


def lay_sign(sheet: Sheet, rng: random.Random, split: Split) -> list[Question]:
    """Two to four words and one number, anywhere on coloured paper."""
    words: set[str] = set()
    texts = [unique(partial(make_word, rng, split, 7, 3), words) for _ in range(rng.randint(2, 4))]
    number = str(rng.randint(1, 9999))
    texts.insert(rng.randint(0, len(texts)), number)
    rows = sorted(rng.sample(range(sheet.rows), min(len(texts), sheet.rows)))
    for row, text in zip(rows, texts, strict=False):
        sheet.write(row, rng.randint(0, max(0, sheet.width - 2 - sheet.width_of(text))), text)
    said = " ".join(texts[: len(rows)])
    questions = [Question("say", SAY, said)]
    if number in texts[: len(rows)]:
        questions.append(Question("number", NUMBER, number))
    return questions
