"""Pages as training batches: one image prefix, then many questions that do not see each other.

Every branch (a question, or the transcription) attends to the image and to itself only, and its positions
continue from the image. So a branch is exactly what the model meets in use, and the image is read once for
all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsemm.documents import Page
from sparsemm.tiny.architecture import MERGE, PATCH
from sparsemm.tiny.glyphs import TOKEN_PIXELS, glyph_labels
from sparsemm.tiny.vocabulary import (
    ASSISTANT,
    END,
    IMAGE,
    OCR_PROMPT,
    VISION_END,
    VISION_START,
    build_tokenizer,
)

IGNORE = -100
KEY_WEIGHT = 0.3
"""Loss weight of the letters and digits of a question; those of an answer weigh 1."""


class Sections(NamedTuple):
    """Lengths of a sequence's parts, in this order; the same for all rows of a batch.

    ``prefix`` (the image), ``questions`` branches of ``question`` tokens each, one of ``transcription``
    tokens. Branches end with padding.
    """

    prefix: int
    questions: int
    question: int
    transcription: int

    @property
    def length(self) -> int:
        """L, of the whole sequence."""
        return self.prefix + self.questions * self.question + self.transcription


@dataclass
class Text:
    """Questions and answers of a batch; L sequence length.

    Attributes
    ----------
    input_ids, labels : [B, L] long; labels are the *next* token, ``IGNORE`` where no loss is put
    weights : [B, L] float32, loss weights
    position_ids : [3, B, L] long (time, height, width)
    sections : Sections
    """

    input_ids: Tensor
    labels: Tensor
    weights: Tensor
    position_ids: Tensor
    sections: Sections

    def to(self, device: torch.device) -> Text:
        """The same tensors on a device."""
        tensors = {name: value.to(device) for name, value in vars(self).items() if name != "sections"}
        return Text(**tensors, sections=self.sections)


@dataclass
class Batch:
    """B pages of one shape (rows x columns visual tokens); N visual tokens.

    Attributes
    ----------
    pixels : [B, 4 N, 384] float32, the processor's flattened patches, values -1 to 1
    grid : (rows, columns) in visual tokens
    glyphs : [B, N, SLOTS] long, class of the character in each stripe of each visual token
    text : Text, or None for pages that only teach characters
    """

    pixels: Tensor
    grid: tuple[int, int]
    glyphs: Tensor
    text: Text | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        text = self.text.to(device) if self.text else None
        return Batch(self.pixels.to(device), self.grid, self.glyphs.to(device), text)


def patchify(images: np.ndarray) -> Tensor:
    """[B, H, W, 3] uint8 pages -> [B, 4 N, 384] patches, as the processor makes of them."""
    batch, height, width, _ = images.shape
    value = (images.astype(np.float32) * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.5)
    grid = value.reshape(batch, height // TOKEN_PIXELS, MERGE, PATCH, width // TOKEN_PIXELS, MERGE, PATCH, 3)
    # a patch holds three channels, each with two equal frames
    patches = grid.transpose(0, 1, 4, 2, 5, 7, 3, 6).reshape(batch, -1, 3, 1, PATCH * PATCH)
    frames = np.broadcast_to(patches, (*patches.shape[:3], 2, PATCH * PATCH))
    return torch.from_numpy(np.ascontiguousarray(frames)).flatten(2)


class Packer:
    """Turns pages of one shape into a ``Batch``."""

    def __init__(self) -> None:
        self.tokenizer = build_tokenizer()
        self.ids: dict[str, int] = self.tokenizer.get_vocab()

    def _branch(self, question: str, answer: str) -> tuple[list[int], list[float]]:
        """Tokens of one question and answer, and the loss weight of predicting each of them."""
        asked = self.tokenizer.tokenize(question)
        ids = [self.ids[token] for token in (*asked, ASSISTANT, *answer, END)]
        weights = [KEY_WEIGHT if len(token) == 1 and token.isalnum() else 0.0 for token in asked]
        # the first token of a branch is given, never predicted
        return ids, [0.0, *weights[1:], 0.0] + [1.0] * (len(answer) + 1)

    def pack(self, pages: list[Page], lookups: int, transcribe: bool, order: np.random.Generator) -> Batch:
        """Pack pages with up to ``lookups`` questions each, and the transcription if wanted."""
        batch = self.pack_vision(pages)
        rows, columns = batch.grid
        asked: list[list[tuple[list[int], list[float]]]] = []
        for page in pages:
            short = [question for question in page.questions if question.kind != "say"]
            chosen = order.permutation(len(short))[:lookups]
            asked.append([self._branch(short[i].text, short[i].answer) for i in chosen])
        read = [self._branch(*_everything(page)) for page in pages] if transcribe else []
        sections = Sections(
            prefix=2 + rows * columns,
            questions=max(map(len, asked)),
            question=max((len(ids) for branches in asked for ids, _ in branches), default=0),
            transcription=max((len(ids) for ids, _ in read), default=0),
        )
        input_ids = np.full((len(pages), sections.length), self.ids[END], np.int64)
        weights = np.zeros((len(pages), sections.length), np.float32)
        input_ids[:, 1 : sections.prefix - 1] = self.ids[IMAGE]
        input_ids[:, 0], input_ids[:, sections.prefix - 1] = self.ids[VISION_START], self.ids[VISION_END]
        for row, branches in enumerate(asked):
            starts = [sections.prefix + number * sections.question for number in range(len(branches))]
            if read:
                starts.append(sections.length - sections.transcription)
                branches.append(read[row])
            for start, (ids, loss) in zip(starts, branches, strict=True):
                input_ids[row, start : start + len(ids)] = ids
                weights[row, start : start + len(ids)] = loss
        # the label of a position is the next token; a branch's first token weighs 0, so none crosses over
        labels = np.where(weights[:, 1:] > 0, input_ids[:, 1:], IGNORE)
        batch.text = Text(
            input_ids=torch.from_numpy(input_ids),
            labels=torch.from_numpy(np.pad(labels, ((0, 0), (0, 1)), constant_values=IGNORE)),
            weights=torch.from_numpy(np.pad(weights[:, 1:], ((0, 0), (0, 1)))),
            position_ids=_positions(rows, columns, sections)[:, None].expand(3, len(pages), -1),
            sections=sections,
        )
        return batch

    def pack_vision(self, pages: list[Page]) -> Batch:
        """Pack pages for the auxiliary task alone."""
        images = np.stack([np.asarray(page.image) for page in pages])
        grid = (images.shape[1] // TOKEN_PIXELS, images.shape[2] // TOKEN_PIXELS)
        return Batch(
            patchify(images), grid, torch.from_numpy(np.stack([glyph_labels(page) for page in pages]))
        )


def _everything(page: Page) -> tuple[str, str]:
    """The question that asks for all words of a page: the transcription, or what a sign says."""
    long = [(question.text, question.answer) for question in page.questions if question.kind == "say"]
    return long[0] if long else (OCR_PROMPT, page.text)


def _positions(rows: int, columns: int, sections: Sections) -> Tensor:
    """[3, L] positions of Qwen2-VL: a grid for the image; every branch goes on from its longer side."""
    place, start = np.arange(rows * columns), 1 + max(rows, columns)
    image = np.stack([np.ones_like(place), 1 + place // columns, 1 + place % columns])
    flat = np.concatenate(
        [
            [start],
            np.tile(start + 1 + np.arange(sections.question), sections.questions),
            start + 1 + np.arange(sections.transcription),
        ]
    )
    return torch.from_numpy(np.concatenate([np.zeros((3, 1), int), image, np.tile(flat, (3, 1))], axis=1))
