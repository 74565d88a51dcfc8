"""Words, keys and values. Training and evaluation never share a word or a key, however they are spelt."""

from __future__ import annotations

import random
import string
import zlib
from collections.abc import Callable
from typing import Literal

Split = Literal["train", "eval"]

PUNCTUATION = ".:-/$%"
ALPHABET = string.ascii_uppercase + string.digits + PUNCTUATION + string.ascii_lowercase
"""Every character that can stand on a page (besides the space)."""

CASES: tuple[Callable[[str], str], ...] = (str.upper, str.capitalize, str.lower)

_ONSETS = ("B", "C", "D", "F", "G", "H", "J", "K", "L", "M", "N", "P", "Q", "R", "S", "T", "V", "W", "X",
"Y", "Z",
           "BR", "CH", "CL", "DR", "FL", "GR", "PL", "PR", "SH", "SK", "ST", "TR", "TH", "")  # fmt: skip
_VOWELS = ("A", "E", "I", "O", "U", "AI", "EE", "OU", "IO", "EA")
_CODAS = ("", "", "", "N", "R", "S", "T", "L", "M", "CK", "NT", "ST", "X", "ND", "P", "D", "G", "Z")


def split_of(text: str) -> Split:
    """Which split may use a word or key: one in five, chosen by checksum, belongs to evaluation."""
    return "eval" if zlib.crc32(text.upper().encode()) % 5 == 0 else "train"


def make_word(rng: random.Random, split: Split, max_length: int, min_length: int = 2) -> str:
    """A pronounceable word of one to three syllables, in capitals, capitalised or small."""
    while True:
        syllables = (
            rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.randint(1, 3))
        )
        word = "".join(syllables)
        if min_length <= len(word) <= max_length and split_of(word) == split:
            return rng.choice(CASES)(word)


def make_key(rng: random.Random, split: Split, length: int = 3) -> str:
    """Letters, in capitals (every other key), capitalised or small."""
    while True:
        key = "".join(rng.choices(string.ascii_uppercase, k=length))
        if split_of(key) == split:
            return rng.choices(CASES, (2, 1, 1))[0](key)


def make_value(rng: random.Random) -> str:
    """A number, price, share, date or code of three to five characters."""
    kind = rng.randrange(8)
    digits = "".join(rng.choices(string.digits, k=4))
    if kind <= 2:
        return digits
    if kind == 3:
        return digits[:3]
    if kind == 4:
        return f"${digits[0]}.{digits[1:3]}" if rng.random() < 0.5 else f"{digits[:2]}.{digits[2]}%"
    if kind == 5:
        return f"{digits[:2]}{rng.choice(':/-')}{digits[2:]}"
    return "".join(rng.choices(string.ascii_uppercase + string.digits, k=rng.randint(3, 5)))


def make_price(rng: random.Random) -> str:
    """A price of four or five characters, such as 3.75 or 12.40."""
    return f"{rng.randint(1, 49)}.{rng.randint(0, 99):02d}"


def make_noise_word(rng: random.Random, length: int) -> str:
    """Random characters of the whole alphabet, for pages that teach single characters."""
    return "".join(rng.choices(ALPHABET, k=length))


def unique(make: Callable[[], str], taken: set[str]) -> str:
    """A text that is not ``taken`` yet, however it is spelt; it is from now on."""
    while (text := make()).upper() in taken:
        pass
    taken.add(text.upper())
    return text
