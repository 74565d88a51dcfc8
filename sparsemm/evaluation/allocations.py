"""Allocations: how many entries each (layer, KV head) kept, from the single response to the table.

A response holds its counts packed into a short text (`pack`): they are stored, salvaged, replaced and read
with the response, so that nothing is counted twice. A cell's file holds their sums over its documents.
Responses that an older version stored have none; a cell that uses such a response has no allocation.
"""

from __future__ import annotations

import base64
import sys
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsemm.evaluation.responses import Response
from sparsemm.evaluation.tables import CELL_COLUMNS, LABELS, Column

if TYPE_CHECKING:
    import pandas as pd

    from sparsemm.methods import KVMethod, ModelShape

ALLOCATION_COLUMNS: dict[str, Column] = {
    "cell": Column("text", "id of the cell (the name of its file in cells/)"),
    **{name: Column(CELL_COLUMNS[name].type, "as in cells.csv") for name in (*LABELS, "seed")},
    "layer": Column("integer", "index among the layers that can be compressed, from 0"),
    "kv_head": Column("integer", "index among the KV heads of the layer, from 0"),
    "nominal": Column(
        "number",
        "entries that the method's rule gives the head, window included, before they are cut at what a "
        "prompt has; of AdaKV, which shares a layer's budget anew for every prompt, the mean of the layer; "
        "empty for FullKV",
    ),
    "kept": Column("number", "entries kept after the prompt, window included, mean over documents"),
    "n": Column("integer", "documents that were answered"),
}
"""Columns of ``allocations.parquet``, one row for each (cell, layer, KV head)."""


def pack(kept: Iterable[int]) -> str:
    """Counts as a short text, for a `Response`: 32-bit integers, deflated, in base64.

    The counts of 1,024 heads take about 30 characters where all are equal, 1,400 where they differ.
    """
    counts = array("i", kept)
    if sys.byteorder == "big":
        counts.byteswap()
    return base64.b64encode(zlib.compress(counts.tobytes(), 9)).decode("ascii")


def unpack(text: str, layers: int) -> NDArray[np.int64]:
    """The inverse of `pack` for counts [layers, KV heads]."""
    counts = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<i4")
    return counts.astype(np.int64).reshape(layers, -1)


def allocation(method: KVMethod, responses: Sequence[Response], shape: ModelShape) -> dict[str, Any] | None:
    """What a cell's file says of its allocation.

    Parameters
    ----------
    method : KVMethod
        The cell's.
    responses : sequence of Response
        Of the documents that were answered.
    shape : ModelShape
        The model's.

    Returns
    -------
    dict or None
        ``n`` documents, ``kept``: their sums [layers, KV heads], and ``nominal`` [layers, KV heads], window
        included (None for FullKV); of budgets that are a share of the prompt at the mean prompt length. None
        where there are no responses, or one of them comes from a version that did not count heads.
    """
    if not responses or not all(response.kept for response in responses):
        return None
    layers = shape.num_hidden_layers
    kept = sum((unpack(response.kept, layers) for response in responses), np.zeros((layers, 1), np.int64))
    evicted = sum(response.evicted_tokens for response in responses)
    compressed = round((int(kept.sum()) + evicted) / (kept.size * len(responses)))
    nominal = method.nominal_quotas(compressed, shape) + method.window if method.evicts else None
    return {
        "n": len(responses),
        "kept": kept.tolist(),
        "nominal": None if nominal is None else nominal.tolist(),
    }


def check_allocation(held: Any) -> None:
    """Raise ``ValueError`` unless a cell's file holds an allocation as `allocation` gives it, or none."""
    if held is None:
        return
    if not isinstance(held, dict) or not isinstance(held.get("n"), int) or held["n"] < 1:
        raise ValueError("its allocation counts no documents")
    for name in ("kept", "nominal"):
        table = held.get(name)
        if name == "nominal" and table is None:
            continue
        numbers = np.array(table, dtype=object)
        if numbers.ndim != 2 or not all(type(value) in (int, float) for value in numbers.flat):
            raise ValueError(f"allocation.{name} is no table of numbers [layers, KV heads]")
    if held.get("nominal") is not None and np.shape(held["nominal"]) != np.shape(held["kept"]):
        raise ValueError("allocation.nominal and allocation.kept differ in shape")


def allocation_rows(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns of ``allocations.parquet`` for cells as in their files; those without any are left out."""
    columns: dict[str, list[Any]] = {name: [] for name in ALLOCATION_COLUMNS}
    for cell in cells:
        if (held := cell.get("allocation")) is None:
            continue
        kept = np.array(held["kept"], dtype=np.float64) / held["n"]
        layers, heads = kept.shape
        wanted = held.get("nominal")
        nominal = [None] * kept.size if wanted is None else np.ravel(wanted).tolist()
        for name in (*LABELS, "seed"):
            columns[name] += [cell["row"].get(name)] * kept.size
        columns["cell"] += [cell["id"]] * kept.size
        columns["layer"] += np.repeat(np.arange(layers), heads).tolist()
        columns["kv_head"] += np.tile(np.arange(heads), layers).tolist()
        columns["nominal"] += nominal
        columns["kept"] += kept.ravel().tolist()
        columns["n"] += [held["n"]] * kept.size
    return columns


def load_allocations(folder: str | Path) -> pd.DataFrame | None:
    """Read ``allocations.parquet`` of a results folder; None if it has none (an older sweep's has not).

    Raises
    ------
    ValueError
        If the file is no such table.
    """
    import pandas as pd
    import pyarrow as pa

    file = Path(folder) / "allocations.parquet"
    if not file.is_file():
        return None
    try:
        table = pd.read_parquet(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{file} is no table ({' '.join(str(error).split())})") from None
    if missing := [column for column in ALLOCATION_COLUMNS if column not in table.columns]:
        raise ValueError(f"{file} lacks the columns {', '.join(missing)}")
    return table
