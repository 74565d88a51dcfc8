"""Which generated tokens count as read, and which text region each of them was read from.

A region is a word with its box. Rules return pairs (index of the generated token, index of the region).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from sparsemm.heads.sources import Boxed

Rule = Callable[[Sequence[str], Boxed], list[tuple[int, int]]]


def paper(tokens: Sequence[str], page: Boxed) -> list[tuple[int, int]]:
    """SparseMM's rule (arXiv 2506.05344): a token counts when exactly one region contains its string."""
    regions = [word.text for line in page.lines for word in line]
    found = []
    for index, token in enumerate(tokens):
        text = token.strip()
        holders = [number for number, region in enumerate(regions) if text in region] if text else []
        if len(holders) == 1:
            found.append((index, holders[0]))
    return found


def aligned(tokens: Sequence[str], page: Boxed) -> list[tuple[int, int]]:
    """A token counts when all its characters are aligned, correctly, to one region of the reference.

    The transcription is aligned to the page's text by edit distance. For models whose tokens are
    characters, which would rarely be unique.
    """
    region_of: list[int | None] = []
    number = 0
    for line in page.lines:
        for word in line:
            # the space or line feed behind a word is in no region
            region_of += [*[number] * len(word.text), None]
            number += 1
    origin: dict[int, int | None] = {}
    output = "".join(tokens)
    for block in Levenshtein.editops(page.text, output).as_matching_blocks():
        for offset in range(block.size):
            origin[block.b + offset] = region_of[block.a + offset]
    found = []
    position = 0
    for index, token in enumerate(tokens):
        places = [place for place in range(position, position + len(token)) if not output[place].isspace()]
        regions = {origin.get(place) for place in places}
        position += len(token)
        if len(regions) == 1 and (region := regions.pop()) is not None:
            found.append((index, region))
    return found


RULES: dict[str, Rule] = {"paper": paper, "aligned": aligned}
