"""What can be asked about a page: the questions as a user types them, and their answers."""

from __future__ import annotations

from dataclasses import dataclass

VALUE = "What is the value of "
KEY = "Which key has the value "
ROW, COLUMN = "What is in row ", " under "
LARGER, OR = "Which is larger, ", " or "
TOTAL = "What is the total?"
LARGEST = "Which bar is the largest?"
SAY = "What does the sign say?"
NUMBER = "What is the number?"
PHRASES = (VALUE, KEY, ROW, COLUMN, LARGER, OR, TOTAL, LARGEST, SAY, NUMBER)
"""The fixed parts of all questions; single tokens of the embedded model."""


@dataclass(frozen=True)
class Question:
    """A question about a page.

    Attributes
    ----------
    kind : str
        value, key, total, cell, compare, largest, say or number.
    text, answer : str
        As the user types it, and what is right.
    """

    kind: str
    text: str
    answer: str


def ask_value(key: str, value: str) -> Question:
    """Ask what stands behind, or above, a key."""
    return Question("value", f"{VALUE}{key}?", value)


def ask_key(key: str, value: str) -> Question:
    """Ask which key a value belongs to."""
    return Question("key", f"{KEY}{value}?", key)


def ask_cell(row: str, column: str, value: str) -> Question:
    """Ask what a table holds in a row, under a heading."""
    return Question("cell", f"{ROW}{row}{COLUMN}{column}?", value)


def ask_larger(one: str, other: str, larger: str) -> Question:
    """Ask which of two bars is the larger."""
    return Question("compare", f"{LARGER}{one}{OR}{other}?", larger)
