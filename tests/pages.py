"""Fenced blocks of Markdown pages: tests try what the pages say."""

import re
from pathlib import Path

import sparsemm

ROOT = Path(sparsemm.__file__).parents[1]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[str]:
    """The blocks of a page that are in one of these languages; "" is none given."""
    return [
        text for language, text in FENCED.findall(page.read_text(encoding="utf-8")) if language in languages
    ]


def prose(page: Path) -> str:
    """A page without its blocks."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))
