"""Running English text: sentences about many subjects, out of a file that lmms-eval ships."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

FILE = "tasks/mmlu/flan_cot_fewshot/_cot_prompts.json"
"""Inside ``lmms_eval``: worked examples from 57 subjects, ``{"anatomy": "text", …}``. Never imported."""

_SENTENCE = re.compile(r"[A-Z][A-Za-z0-9 ,;:'\"()\-]*[.?!]")
_EXAM = re.compile(r"answer is|\([A-D]\)|[Ss]tatement|step by step|We refer|multiple choice|[Oo]ption")
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"'})
SHORTEST = 6
"""Words of a sentence; shorter ones are left out."""


class Prose(NamedTuple):
    """Passages of sentences, and what a card says of their file."""

    passages: tuple[tuple[str, ...], ...]
    facts: dict[str, Any]


@lru_cache(maxsize=1)
def load_prose() -> Prose:
    """Read the sentences; formulas, lists of choices and exam phrases are left out.

    Raises
    ------
    FileNotFoundError
        If the file is not installed.
    """
    spec = find_spec("lmms_eval")
    path = Path(spec.origin).parent / FILE if spec and spec.origin else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            f"running text comes from lmms-eval's {FILE}: pip install 'lmms-eval>=0.7.3,<0.8'"
        )
    content = path.read_bytes()
    passages = []
    for text in json.loads(content).values():
        for part in re.split(r"\nQ: |\nA: |\n", text.translate(_QUOTES)):
            sentences = [sentence.strip() for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z\"])", part)]
            if kept := tuple(sentence for sentence in sentences if _is_prose(sentence)):
                passages.append(kept)
    facts = {
        "file": f"lmms_eval/{FILE}",
        "version": version("lmms-eval"),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return Prose(tuple(passages), {"text": facts})


def _is_prose(sentence: str) -> bool:
    return (
        _SENTENCE.fullmatch(sentence) is not None
        and len(sentence.split()) >= SHORTEST
        and not _EXAM.search(sentence)
    )


def sentences(rng: random.Random) -> Iterator[str]:
    """Sentences without end, passage after passage in an order drawn by `rng`."""
    passages = list(load_prose().passages)
    while True:
        rng.shuffle(passages)
        for passage in passages:
            yield from passage
