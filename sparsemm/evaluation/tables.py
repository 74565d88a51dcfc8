"""The result tables: what every column means, and how to read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
"""Raised whenever a column changes its meaning."""

CELL_COLUMNS: dict[str, str] = {
    "model": "name of the model's configuration",
    "task": "name of the lmms-eval task",
    "metric": "the task's metric that `score` is",
    "method": "name of the method's configuration",
    "budget": "nominal budget: entries per (layer, KV head), window included; an integer counts tokens, "
    "a fraction is a share of the prompt; empty for FullKV",
    "window": "last prompt tokens that are always kept; empty for FullKV",
    "overflow": "what SparseMM does with quotas above the prompt: redistribute, or drop as the released code",
    "rounding": "how quotas become integers: exact (sums hold), or released (as the released code)",
    "head_scores": "file of head scores and the start of their hash; empty if the method uses none",
    "ablation": "name of the ablation; empty: none",
    "fraction": "share of heads that the ablation masks; empty: none",
    "seed": "seed of the method or ablation, where it has one",
    "method_params": "all further parameters of the method, JSON",
    "score": "the metric over all documents, as the task's own code gives it",
    "ci_low": "lower end of the 95% confidence interval of `score` (bootstrap over documents)",
    "ci_high": "upper end of the 95% confidence interval of `score`",
    "n": "documents",
    "diff_full": "`score` minus FullKV's on the same documents",
    "diff_ci_low": "lower end of the 95% confidence interval of `diff_full` (paired)",
    "diff_ci_high": "upper end of the 95% confidence interval of `diff_full` (paired)",
    "agreement_full": "share of documents whose response is FullKV's, character by character",
    "agreement_prefix": "mean share of FullKV's response tokens reproduced before the first difference",
    "realised_budget": "measured mean of entries kept per (layer, KV head) after the prompt",
    "n_uncompressed": "documents of whose prompt nothing was evicted",
    "kv_bytes": "mean bytes that hold a document's K and V when its text is done: allocated less free slots",
    "full_kv_bytes": "bytes that a full cache of the same tokens would hold",
    "prefill_s": "mean seconds to the first token for one document: a batch's time over its documents",
    "decode_s_per_token": "seconds per further token: the batches' decode time over the tokens they produced",
    "device": "what it ran on",
    "dtype": "the model's number format",
    "schema_version": "version of these columns",
}
"""Columns of ``cells.csv``, one row for every finished cell."""

SAMPLE_COLUMNS: dict[str, str] = {
    "cell": "id of the cell (the name of its file in cells/)",
    "model": "as in cells.csv",
    "task": "as in cells.csv",
    "method": "as in cells.csv",
    "budget": "as in cells.csv",
    "doc_id": "index of the document in the task",
    "response": "the model's text, cut at the task's stop strings",
    "target": "what the task expects, JSON",
    "score": "the task's metric for this document alone",
    "prompt_tokens": "prompt tokens, padding not counted",
    "new_tokens": "generated tokens, the end token included",
    "realised_budget": "entries kept per (layer, KV head) after the prompt, mean over both",
    "evicted_tokens": "entries evicted over all layers and KV heads; 0: nothing was compressed",
}
"""Columns of ``samples.parquet``, one row for every response."""


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
        If a column is missing, or the table is of a newer schema.
    """
    import pandas as pd

    path = Path(path)
    file = path / "cells.csv" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no results at {path}: there is no {file}")
    cells = pd.read_csv(file)
    missing = [column for column in CELL_COLUMNS if column not in cells.columns]
    if missing:
        raise ValueError(f"{file} lacks the columns {', '.join(missing)}")
    if len(cells) and cells["schema_version"].max() > SCHEMA_VERSION:
        raise ValueError(f"{file} was written by a newer sparsemm: schema {cells['schema_version'].max()}")
    return cells
