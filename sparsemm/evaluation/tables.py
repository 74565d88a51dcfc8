"""The result tables: what every column means, and how to read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 4
"""Raised whenever a column is added or changes its meaning."""


IMAGE_QUESTION = "image_question"
QUESTION_AFTER = "question_after_compression"
PROMPTS = (IMAGE_QUESTION, QUESTION_AFTER)
"""Compressed as a whole, as in every method's paper; or before the question comes (query-agnostic)."""

PYTHON_TYPES = {"text": str, "integer": int, "number": (int, float), "boolean": bool}


class Column(NamedTuple):
    """What a column holds: ``text``, ``integer``, ``number`` or ``boolean``, and its meaning."""

    type: str
    meaning: str

    def holds(self, value: object) -> bool:
        """Whether a value may stand in this column; None may in all."""
        return value is None or isinstance(value, PYTHON_TYPES[self.type])


CELL_COLUMNS: dict[str, Column] = {
    "model": Column("text", "name of the model's configuration"),
    "task": Column("text", "name of the lmms-eval task"),
    "metric": Column("text", "the task's metric that `score` is"),
    "method": Column("text", "name of the method's configuration"),
    "budget": Column(
        "number",
        "nominal budget: entries per (layer, KV head), window included; above 1 it counts tokens, "
        "a share in (0, 1] is one of the prompt (without a question that comes later); empty for FullKV",
    ),
    "window": Column("integer", "last prompt tokens that are always kept; empty for FullKV"),
    "overflow": Column(
        "text", "what SparseMM does with quotas above the prompt: redistribute, or drop as the released code"
    ),
    "rounding": Column(
        "text", "how quotas become integers: exact (sums hold), or released (as the released code)"
    ),
    "head_scores": Column(
        "text",
        "file of head scores and the start of their hash; empty if neither method nor ablation uses any",
    ),
    "prompt": Column(
        "text",
        f"{IMAGE_QUESTION}: compressed as a whole; {QUESTION_AFTER}: the question is read behind "
        "what was kept, and counts in no budget",
    ),
    "ablation": Column("text", "name of the ablation's configuration; empty: none"),
    "fraction": Column(
        "number",
        "share of all query heads that the ablation was to switch off, rounded to whole heads; empty: none",
    ),
    "ablation_params": Column(
        "text",
        "how many heads that are, by which head scores, and the ablation's own parameters, JSON; empty: none",
    ),
    "seed": Column("integer", "seed of the method, else of the ablation, where one has it"),
    "method_params": Column("text", "all further parameters of the method, JSON"),
    "score": Column("number", "the metric over all documents, as the task's own code gives it"),
    "ci_low": Column("number", "lower end of the 95% confidence interval of `score`; empty: there is none"),
    "ci_high": Column("number", "upper end of the 95% confidence interval of `score`"),
    "n": Column("integer", "documents"),
    "n_failed": Column("integer", "documents that could not be answered; they count as empty answers"),
    "diff_full": Column("number", "`score` minus FullKV's on the same documents; empty without FullKV"),
    "diff_ci_low": Column("number", "lower end of the 95% confidence interval of `diff_full` (paired)"),
    "diff_ci_high": Column("number", "upper end of the 95% confidence interval of `diff_full` (paired)"),
    "agreement_full": Column(
        "number", "share of documents whose response is FullKV's, character by character"
    ),
    "agreement_prefix": Column(
        "number", "mean share of FullKV's response tokens reproduced before the first difference"
    ),
    "realised_budget": Column(
        "number", "measured mean of entries kept per (layer, KV head) after the prompt, window included"
    ),
    "n_uncompressed": Column("integer", "documents of whose prompt nothing was evicted"),
    "kv_bytes": Column(
        "integer",
        "mean bytes that hold a document's K and V when its text is done, free slots not counted, in a run "
        "of the document alone; up to schema 3 a batch's over its documents, padding included",
    ),
    "full_kv_bytes": Column(
        "integer", "bytes that a full cache of the same tokens would hold; up to schema 3 as in `kv_bytes`"
    ),
    "prefill_s": Column(
        "number",
        "mean seconds to the first token for one document: a batch's time over its documents; "
        "empty in fanned-out cells, which share one prefill",
    ),
    "decode_s_per_token": Column(
        "number",
        "seconds per further token: the batches' decode time over the tokens they produced; "
        "empty in fanned-out cells, which are decoded together",
    ),
    "device": Column("text", "what it ran on"),
    "dtype": Column("text", "the model's number format"),
    "schema_version": Column("integer", "version of the columns under which the cell was measured"),
}
"""Columns of ``cells.csv``, one row for every finished cell."""

LABELS = ("model", "task", "method", "budget", "prompt", "ablation", "fraction")
"""Columns that say in a few words which cell it is."""


def variant(method: str, prompt: str | None, ablation: str | None, fraction: float | None) -> str:
    """What a cell is called beside its budget: ``snapkv``, ``fullkv, mask_visual 0.1``."""
    parts = [method]
    if prompt == QUESTION_AFTER:
        parts.append("question after")
    if ablation:
        parts.append(f"{ablation} {fraction:g}")
    return ", ".join(parts)


SETTINGS = (
    *("window", "overflow", "rounding", "head_scores", "prompt"),
    *("ablation", "fraction", "ablation_params", "method_params"),
)
"""Columns of ``cells.csv``, beside the labels, in which cells must agree to be averaged over their seeds."""


def without_seed(value: object) -> str:
    """A comparable form of a cell's entry: JSON loses its seed, all empty entries are equal."""
    if isinstance(value, str) and value.startswith("{"):
        value = json.dumps(
            {key: item for key, item in json.loads(value).items() if key != "seed"}, sort_keys=True
        )
    return str(value)


SAMPLE_COLUMNS: dict[str, Column] = {
    "cell": Column("text", "id of the cell (the name of its file in cells/)"),
    **{name: Column(CELL_COLUMNS[name].type, "as in cells.csv") for name in LABELS},
    "doc_id": Column("integer", "index of the document in the task"),
    "response": Column("text", "the model's text, cut at the task's stop strings"),
    "target": Column("text", "what the task expects, JSON"),
    "score": Column(
        "number", "the task's metric for this document alone; empty where the task gives a document no score"
    ),
    "agreement_full": Column("boolean", "whether the response is FullKV's, character by character"),
    "agreement_prefix": Column(
        "number",
        "tokens that the response and FullKV's have in common at their beginning, over FullKV's tokens, "
        "end tokens included; if FullKV gave none: 1 if this response has none either, else 0",
    ),
    "prompt_tokens": Column("integer", "prompt tokens, padding not counted"),
    "new_tokens": Column("integer", "generated tokens, the end token included"),
    "realised_budget": Column(
        "number", "entries kept per (layer, KV head) after the prompt, window included, mean over both"
    ),
    "evicted_tokens": Column(
        "integer", "entries evicted over all layers and KV heads; 0: nothing was compressed"
    ),
    "image": Column("text", "hash of the images' pixels: documents with the same one form one cluster"),
    "error": Column("text", "why the document could not be answered; empty: it was"),
}
"""Columns of ``samples.parquet``, one row for every response."""

STORED_SAMPLES = (
    *("doc_id", "response", "target", "score", "prompt_tokens", "new_tokens", "realised_budget"),
    *("evicted_tokens", "tokens", "image", "error", "aggregated"),
)
"""What a cell's file holds of each document: ``tokens`` are the generated ids, the end token included;
``aggregated`` is there for metrics that the task's own function aggregates (``row["aggregation"]``)."""


AGAIN = "run the sweep again: it derives the tables from the finished cells"


def load_results(path: str | Path) -> pd.DataFrame:
    """Read the cells of a results folder (or of its ``cells.csv``) as a data frame with `CELL_COLUMNS`.

    Parameters
    ----------
    path : path
        ``results/<experiment>`` or the ``cells.csv`` in it.

    Raises
    ------
    FileNotFoundError
        If there is no such table.
    ValueError
        If it is empty, cut off, no such table, lacks a column, or is of a newer schema.
    """
    import pandas as pd

    path = Path(path)
    file = path / "cells.csv" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no results at {path}: there is no {file}")
    try:
        cells = pd.read_csv(file)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{file} is empty; {AGAIN}") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no table of cells ({' '.join(str(error).split())}); {AGAIN}") from None
    versions = pd.to_numeric(cells["schema_version"], errors="coerce") if "schema_version" in cells else None
    if versions is not None and versions.max() > SCHEMA_VERSION:
        raise ValueError(f"{file} was written by a newer sparsemm: schema {versions.max():g}")
    if missing := [column for column in CELL_COLUMNS if column not in cells.columns]:
        raise ValueError(f"{file} lacks the columns {', '.join(missing)}; {AGAIN}")
    if cells.empty:
        raise ValueError(f"{file} holds no cells: no cell of the sweep is finished")
    for name, column in CELL_COLUMNS.items():
        if column.type != "text" and not pd.api.types.is_numeric_dtype(cells[name]):
            raise ValueError(f"{file} is corrupt: the column {name} holds what is no number; {AGAIN}")
    if cells["schema_version"].isna().any():
        raise ValueError(f"{file} is cut off: its last row is not complete; {AGAIN}")
    return cells
