"""Responses: the text that a model gave for one (cell, task, document), and what was counted while it did.

Only the standard library is imported: the store and its readers need no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class ResponseKey(NamedTuple):
    """What a response answers.

    Attributes
    ----------
    run : str
        Hash of the model's identity, the task's identity (without its limit) and the generation settings.
    cell : str
        Hash of the method with all its parameters.
    task : str
    doc_id : int
    """

    run: str
    cell: str
    task: str
    doc_id: int


@dataclass(frozen=True)
class Response:
    """The text that a model gave for one document, and what was counted.

    Attributes
    ----------
    text : str
    tokens : tuple of int
        Generated ids, the end token included.
    prompt_tokens : int
        Without padding.
    realised_per_layer : tuple of float
        Entries kept per KV head after the prompt, mean over KV heads, one value per compressible layer.
    evicted_tokens : int
        Over all layers and KV heads; 0: nothing was compressed.
    kv_bytes, full_kv_bytes : float or None
        Bytes of the cache, and of one that keeps everything, in a run of the document alone. None where an
        older version stored the response: its bytes were a batch's, shared out.
    image : str
        Hash of the pixels of the prompt's images: documents that share images share it.
    error : str or None
        Why this document could not be answered; `text` is empty then.
    prefill_s, decode_s : float or None
        Seconds; None in fanned-out cells, where they cannot be told apart.
    kept : str
        Entries kept per (layer, KV head) after the prompt, packed (`sparsemm.evaluation.allocations.pack`);
        empty where an older version stored the response.
    """

    text: str
    tokens: tuple[int, ...]
    prompt_tokens: int
    realised_per_layer: tuple[float, ...]
    evicted_tokens: int
    kv_bytes: float | None
    full_kv_bytes: float | None
    image: str = ""
    error: str | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    kept: str = ""

    @property
    def realised_budget(self) -> float:
        """Entries kept per (layer, KV head) after the prompt; 0.0 for a document that failed before it."""
        layers = self.realised_per_layer
        return sum(layers) / len(layers) if layers else 0.0

    @property
    def new_tokens(self) -> int:
        """How many tokens were generated."""
        return len(self.tokens)
