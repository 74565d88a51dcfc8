"""A cell's result: its responses, scored by the task's own code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsemm.cache import model_shape
from sparsemm.evaluation.allocations import allocation
from sparsemm.evaluation.cells import Cell
from sparsemm.evaluation.responses import Response
from sparsemm.evaluation.scoring import score
from sparsemm.evaluation.tables import SCHEMA_VERSION, STORED_SAMPLES
from sparsemm.models.loading import Checkpoint, device_name


def measure(
    cell: Cell,
    responses: Mapping[int, Response],
    limit: int | None,
    checkpoint: Checkpoint,
    options: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, list[Any]], dict[str, Any] | None]:
    """Score a cell.

    Parameters
    ----------
    cell : Cell
    responses : mapping
        One for each document, by ``doc_id``.
    limit : int or None
        The sweep's.
    checkpoint : Checkpoint
        What answered.
    options : mapping
        The task's file of ``eval_configs/task``.

    Returns
    -------
    row : dict
        The cell's row of ``cells.csv``, without what is derived.
    samples : dict of lists
        Columns of its file, in document order; failed documents count as empty texts.
    allocation : dict or None
        What each (layer, KV head) kept (`sparsemm.evaluation.allocations.allocation`).
    """
    texts = {doc_id: response.text for doc_id, response in responses.items()}
    scored = score(texts, cell.task, cell.metric, limit, options)
    given = [responses[doc_id] for doc_id in scored.samples["doc_id"]]
    answered = [response for response in given if response.error is None]
    n = len(answered)
    row = {
        **cell.columns(),
        "score": scored.value,
        **({"aggregation": scored.aggregation} if scored.aggregation else {}),
        "n": len(given),
        "realised_budget": sum(response.realised_budget for response in answered) / n if n else None,
        "n_uncompressed": sum(response.evicted_tokens == 0 for response in answered),
        "kv_bytes": _mean([response.kv_bytes for response in answered]),
        "full_kv_bytes": _mean([response.full_kv_bytes for response in answered]),
        "device": device_name(checkpoint.device),
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
        "schema_version": SCHEMA_VERSION,
    }
    samples = {
        **scored.samples,
        "prompt_tokens": [response.prompt_tokens for response in given],
        "new_tokens": [response.new_tokens for response in given],
        "realised_budget": [response.realised_budget for response in given],
        "evicted_tokens": [response.evicted_tokens for response in given],
        "tokens": [list(response.tokens) for response in given],
        "image": [response.image for response in given],
        "error": [response.error for response in given],
    }
    text = checkpoint.model.config.get_text_config(decoder=True)
    held = {name: samples[name] for name in STORED_SAMPLES if name in samples}
    return row, held, allocation(cell.method, answered, model_shape(text))


def _mean(sizes: Sequence[float | None]) -> int | None:
    """Mean bytes; None without responses, or where one of them comes from a version that shared them out."""
    known = [size for size in sizes if size is not None]
    return round(sum(known) / len(known)) if known and len(known) == len(sizes) else None
