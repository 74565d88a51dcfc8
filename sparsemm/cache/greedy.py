"""Greedy generation: the options for ``generate``, and where the generated rows end."""

from typing import Any

import torch
from torch import Tensor

GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": None,
    "top_p": None,
    "top_k": None,
}
"""Options of ``generate``; None silences what a checkpoint's generation config says for sampling."""


def until_end(generated: Tensor, end: int | list[int] | None) -> list[list[int]]:
    """Return each row's ids up to and with its first end token, all of them where it has none.

    Parameters
    ----------
    generated
        Generated ids, padded behind the end, shape [B, T].
    end
        Id or ids of the end token; None: rows have no end.
    """
    rows: list[list[int]] = generated.tolist()
    if end is None:
        return rows
    ends = torch.isin(generated, torch.as_tensor(end, device=generated.device))
    lengths = torch.where(ends.any(dim=1), ends.int().argmax(dim=1) + 1, generated.shape[1])
    return [row[:length] for row, length in zip(rows, lengths.tolist(), strict=True)]
