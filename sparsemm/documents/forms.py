"""Forms, receipts and tables: what stands on paper in rows of text."""

from __future__ import annotations

import random
from functools import partial

from sparsemm.documents.question import TOTAL, Question, ask_cell, ask_key, ask_value
from sparsemm.documents.sheet import Sheet
from sparsemm.documents.words import (
    Split,
    make_key,
    make_noise_word,
    make_price,
    make_value,
    make_word,
    unique,
)

MAX_LINES = 12
"""Most lines of text on a page, however large it is."""


def lay_form(sheet: Sheet, rng: random.Random, split: Split) -> list[Question]:
    """Blocks of prose, of keys with values behind them, and of the same ruled; blank rows between.

    Every key can be asked for its value; a value that stands there once, for its key.
    """
    keys: set[str] = set()
    values: set[str] = set()
    pairs: list[tuple[str, str]] = []
    left_rows = MAX_LINES
    row = rng.randint(0, max(0, sheet.rows - MAX_LINES - 2))
    while row < sheet.rows and left_rows:
        kind = rng.choices(("words", "form", "ruled", "blank"), (3, 5, 2, 7))[0]
        room = min(sheet.rows - row, left_rows)
        if not pairs and kind in ("words", "blank"):
            room -= 1  # every page can be asked about: a line is kept for it
            kind = kind if room else "form"
        if kind == "blank":
            row += 1
            continue
        for _ in range(min(max(1, room), rng.randint(1, 3))):
            if kind == "words":
                text = _prose(sheet, rng, split)
            else:
                texts = []
                for _ in range(2 if sheet.columns > 10 and rng.random() < 0.3 else 1):
                    pair = (
                        unique(partial(make_key, rng, split), keys),
                        unique(partial(make_value, rng), values),
                    )
                    if texts and not sheet.fits(" ".join([*texts, *pair])):
                        break
                    texts += pair
                    pairs.append(pair)
                text = " ".join(texts)
            left = rng.randint(0, max(0, min(10, sheet.width - sheet.width_of(text))))
            end = sheet.write(row, left, text)
            if kind == "ruled":
                sheet.rule(row, left, end)
            row, left_rows = row + 1, left_rows - 1
    return [ask(*pair) for pair in pairs for ask in (ask_value, ask_key)]


def _prose(sheet: Sheet, rng: random.Random, split: Split) -> str:
    """One to three words that fit the sheet."""
    text = make_word(rng, split, 8)
    for _ in range(rng.randint(0, 2)):
        longer = f"{text} {make_word(rng, split, 8)}"
        if sheet.fits(longer):
            text = longer
    return text


def lay_receipt(sheet: Sheet, rng: random.Random, split: Split) -> list[Question]:
    """A shop's name, goods with prices in a column of their own, and the total below a rule.

    The total is the sum of the prices.
    """
    names: set[str] = set()
    prices: set[str] = set()
    count = rng.randint(2, max(2, min(MAX_LINES - 4, sheet.rows - 2)))
    row = rng.randint(0, max(0, sheet.rows - count - 2))
    left = rng.randint(0, 6)
    longest = 4 if sheet.width < 160 else 5
    column = left + max(sheet.width_of("M" * (longest - 1)), 40) + rng.choice((8, 16, 24, 40))
    column = max(left + 50, min(column, sheet.width - sheet.width_of("$888.88") - 2))
    sheet.write(row, left + rng.randint(0, 16), make_word(rng, split, 8))
    questions, total = [], 0
    for line in range(1, count + 1):
        while not sheet.fits(
            name := unique(partial(make_word, rng, split, longest), names), column - left - 4
        ):
            pass
        price = unique(partial(make_price, rng), prices)
        total += round(float(price) * 100)
        sheet.write(row + line, left, name)
        sheet.write(row + line, column, price)
        questions.append(ask_value(name, price))
    if row + count + 1 < sheet.rows:
        amount = f"{total // 100}.{total % 100:02d}"
        sheet.rule(row + count, left, column + sheet.width_of("88.88"))
        sheet.write(row + count + 1, left, rng.choice(("TOTAL", "Total")))
        sheet.write(row + count + 1, column, amount)
        questions.append(Question("total", TOTAL, amount))
    return questions


def lay_table(sheet: Sheet, rng: random.Random, split: Split) -> list[Question]:
    """Numbers below headings and behind row names of two letters; ruled, or not."""
    pitch = rng.choice((3, 4)) * 16 if sheet.columns >= 10 else 40
    names: set[str] = set()
    heads = [
        unique(partial(make_key, rng, split, 2), names)
        for _ in range(rng.randint(2, max(2, (sheet.width - 70) // pitch + 1)))
    ]
    count = rng.randint(2, max(2, min(MAX_LINES - 2, sheet.rows - 2)))
    step = 2 if 2 * count + 1 < sheet.rows and rng.random() < 0.5 else 1
    row = rng.randint(0, max(0, sheet.rows - step * count - 1))
    ruled = rng.random() < 0.5
    first = rng.randint(36, 40)
    for place, head in enumerate(heads):
        sheet.write(row, first + place * pitch, head)
    questions = []
    for line in range(1, count + 1):
        name = unique(partial(make_key, rng, split, 2), names)
        at = row + line * step
        sheet.write(at, 2, name)
        for place, head in enumerate(heads):
            value = str(rng.randint(10, 999))
            sheet.write(at, first + place * pitch, value)
            questions.append(ask_cell(name, head, value))
        if ruled:
            sheet.rule(at, 0, first + len(heads) * pitch)
    return questions


def lay_dense(sheet: Sheet, rng: random.Random) -> None:
    """Every row full of random characters: for teaching characters, not reading."""
    for row in range(sheet.rows):
        text = make_noise_word(rng, rng.randint(1, 8))
        while sheet.fits(longer := f"{text} {make_noise_word(rng, rng.randint(1, 6))}"):
            text = longer
        while not sheet.fits(text):
            text = text[:-1]
        sheet.write(row, min(rng.randint(0, 10), sheet.width - sheet.width_of(text)), text)
