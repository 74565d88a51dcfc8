"""The hits of the documents that are done, kept beside the scores until all are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sparsemm.recording import write_atomically


class Progress:
    """Hits of the first documents, [documents, layers, query heads] float32, in a file of their own.

    Parameters
    ----------
    output : Path
        Where the scores will be; the file is ``<output>.partial``.
    identity : mapping
        What the hits depend on (model, documents, rule, batch size): a file of another run is not used.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any]) -> None:
        self.path = output.with_name(f"{output.name}.partial")
        self.identity = dict(identity)
        self._identity = json.dumps(self.identity, sort_keys=True)

    def load(self) -> list[np.ndarray]:
        """The hits so far, as a list of at most one array; empty if there are none of this very run."""
        if not self.path.is_file():
            return []
        try:
            with safe_open(self.path, framework="numpy") as file:
                same = (file.metadata() or {}).get("identity") == self._identity
                return [file.get_tensor("hits")] if same else []
        except SafetensorError:
            return []

    def measured(self) -> str | None:
        """Fingerprint of the model that the file is of, whatever else its run was; None: it says none."""
        try:
            with safe_open(self.path, framework="numpy") as file:
                return json.loads((file.metadata() or {}).get("identity", "{}")).get("fingerprint")
        except (OSError, ValueError, AttributeError, SafetensorError):
            return None

    def save(self, hits: list[np.ndarray]) -> None:
        """Keep the hits so far."""
        table = np.ascontiguousarray(np.concatenate(hits))
        metadata = {"identity": self._identity}
        write_atomically(self.path, lambda beside: save_file({"hits": table}, beside, metadata=metadata))

    def done(self) -> None:
        """Forget them: the scores are written."""
        self.path.unlink(missing_ok=True)
