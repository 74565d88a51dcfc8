"""Pages as training batches: one image prefix, then many questions that do not see each other.

Every branch (a look-up, or the transcription) attends to the image and to itself only, and its positions
continue from the
image. So a branch is exactly what the model meets in use, and the image is read once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sparsemm.documents import Page
from sparsemm.documents.words import ALPHABET
from sparsemm.tiny.architecture import MERGE, PATCH
from sparsemm.tiny.vocabulary import (
    ASSISTANT,
    END,
    IMAGE,
    LOOKUP_PREFIX,
    LOOKUP_SUFFIX,
    OCR_PROMPT,
    VISION_END,
    VISION_START,
    build_tokenizer,
)

TOKEN_PIXELS = PATCH * MERGE
GLYPHS = {character: index + 1 for index, character in enumerate(ALPHABET)}
"""Classes of the auxiliary task; 0 is "no character here"."""

IGNORE = -100


@dataclass
class Text:
    """Questions and answers of a batch; L sequence length.

    Attributes
    ----------
    input_ids, labels : [B, L] long; labels are the *next* token, ``IGNORE`` where no loss is put
    weights : [B, L] float32, loss weights
    position_ids : [3, B, L] long (time, height, width)
    mask : [B, 1, L, L] bool, True where a query (third axis) sees a key (fourth axis)
    """

    input_ids: Tensor
    labels: Tensor
    weights: Tensor
    position_ids: Tensor
    mask: Tensor

    def to(self, device: torch.device) -> Text:
        """The same tensors on a device."""
        return Text(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass
class Batch:
    """B pages of one shape (rows x columns visual tokens); N visual tokens.

    Attributes
    ----------
    pixels : [B, 4 N, 384] float32, the processor's flattened patches, values -1 to 1
    grid : (rows, columns) in visual tokens
    glyphs : [B, N, 2] long, class of the character in the left and right half of each visual token
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
    """[B, H, W] uint8 grey pages -> [B, 4 N, 384] patches, as the processor makes of the RGB pages."""
    batch, height, width = images.shape
    value = (images.astype(np.float32) * np.float32(1 / 255) - np.float32(0.5)) / np.float32(0.5)
    grid = value.reshape(batch, height // TOKEN_PIXELS, MERGE, PATCH, width // TOKEN_PIXELS, MERGE, PATCH)
    patches = grid.transpose(0, 1, 4, 2, 5, 3, 6).reshape(batch, -1, 1, PATCH * PATCH)
    # three equal channels and two equal frames
    return torch.from_numpy(
        np.ascontiguousarray(np.broadcast_to(patches, (*patches.shape[:2], 6, PATCH * PATCH)))
    ).flatten(2)


def glyph_labels(page: Page) -> np.ndarray:
    """[N, 2] class of the character whose centre lies in the left and right half of each visual token."""
    columns, rows = page.image.width // TOKEN_PIXELS, page.image.height // TOKEN_PIXELS
    labels = np.zeros((rows, columns * 2), dtype=np.int64)
    for line in page.lines:
        for word in line:
            left, top, right, bottom = word.box
            advance = (right - left) / len(word.text)
            row = (top + bottom) // 2 // TOKEN_PIXELS
            for index, character in enumerate(word.text):
                half = int((left + (index + 0.5) * advance) // (TOKEN_PIXELS // 2))
                if 0 <= half < columns * 2 and not labels[row, half]:
                    labels[row, half] = GLYPHS[character]
    return labels.reshape(-1, 2)


class Packer:
    """Turns pages of one shape into a ``Batch``."""

    def __init__(self) -> None:
        tokenizer = build_tokenizer()
        self.ids: dict[str, int] = tokenizer.get_vocab()

    def _branch(self, instruction: str, question: str, answer: str) -> tuple[list[int], list[float]]:
        """Tokens of one question and answer, and the loss weight of predicting each of them."""
        ids = [self.ids[instruction], *(self.ids[c] for c in question), self.ids[ASSISTANT]]
        weights = [0.0] + [0.3 if c != LOOKUP_SUFFIX else 0.0 for c in question] + [0.0]
        ids += [*(self.ids[c] for c in answer), self.ids[END]]
        return ids, weights + [1.0] * (len(answer) + 1)

    def pack(self, pages: list[Page], lookups: int, transcribe: bool, order: np.random.Generator) -> Batch:
        """Pack pages with up to ``lookups`` look-ups each, and the transcription if wanted."""
        rows, columns = pages[0].image.height // TOKEN_PIXELS, pages[0].image.width // TOKEN_PIXELS
        batch = self.pack_vision(pages)
        prefix = [self.ids[VISION_START], *[self.ids[IMAGE]] * (rows * columns), self.ids[VISION_END]]
        length, start = len(prefix), 1 + max(rows, columns)
        place = np.arange(rows * columns)
        image_positions = np.stack([np.ones_like(place), 1 + place // columns, 1 + place % columns])
        prefix_positions = np.concatenate(
            [np.zeros((3, 1), int), image_positions, np.full((3, 1), start)], axis=1
        )

        sequences = []
        for page in pages:
            ids, weights, positions, branch = list(prefix), [0.0] * length, [prefix_positions], [0] * length
            chosen = order.permutation(len(page.fields))[:lookups]
            branches = [
                self._branch(LOOKUP_PREFIX, page.fields[i][0] + LOOKUP_SUFFIX, page.fields[i][1])
                for i in chosen
            ]
            if transcribe:
                branches.append(self._branch(OCR_PROMPT, "", page.text))
            for number, (tokens, loss) in enumerate(branches, start=1):
                ids += tokens
                weights += loss
                branch += [number] * len(tokens)
                positions.append(np.tile(start + 1 + np.arange(len(tokens)), (3, 1)))
            sequences.append((ids, weights, np.concatenate(positions, axis=1), branch))

        longest = max(len(ids) for ids, *_ in sequences)
        input_ids = np.zeros((len(pages), longest), np.int64)
        weights = np.zeros((len(pages), longest), np.float32)
        position_ids = np.zeros((3, len(pages), longest), np.int64)
        branches = np.full((len(pages), longest), -1)
        for row, (ids, loss, positions, branch) in enumerate(sequences):
            input_ids[row, : len(ids)] = ids
            weights[row, : len(ids)] = loss
            position_ids[:, row, : len(ids)] = positions
            branches[row, : len(ids)] = branch
        same = (branches[:, :, None] == branches[:, None, :]) | (branches[:, None, :] == 0)
        mask = same & np.tril(np.ones((longest, longest), bool))
        # the label of a position is the next token; a branch's first token has weight 0, so none crosses over
        labels = np.where(weights[:, 1:] > 0, input_ids[:, 1:], IGNORE)
        batch.text = Text(
            input_ids=torch.from_numpy(input_ids),
            labels=torch.from_numpy(np.pad(labels, ((0, 0), (0, 1)), constant_values=IGNORE)),
            weights=torch.from_numpy(np.pad(weights[:, 1:], ((0, 0), (0, 1)))),
            position_ids=torch.from_numpy(position_ids),
            mask=torch.from_numpy(mask)[:, None],
        )
        return batch

    def pack_vision(self, pages: list[Page]) -> Batch:
        """Pack pages for the auxiliary task alone."""
        images = np.stack([np.asarray(page.image)[:, :, 0] for page in pages])
        grid = (images.shape[1] // TOKEN_PIXELS, images.shape[2] // TOKEN_PIXELS)
        return Batch(
            patchify(images), grid, torch.from_numpy(np.stack([glyph_labels(page) for page in pages]))
        )
