"""From documents to stored responses: every batch under all cells that still miss it, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sparsemm.evaluation.answers import answer
from sparsemm.evaluation.cells import Cell
from sparsemm.evaluation.memory import Limits
from sparsemm.evaluation.requests import Document
from sparsemm.evaluation.responses import Response, ResponseKey, failure
from sparsemm.evaluation.store import ResponseStore
from sparsemm.models.loading import Checkpoint
from sparsemm.models.prompts import prepare

Row = tuple[ResponseKey, Response]


def respond(
    checkpoint: Checkpoint,
    cells: Sequence[Cell],
    batches: Sequence[Sequence[Document]],
    store: ResponseStore,
    *,
    limits: Limits,
    advance: Callable[[int], None],
) -> None:
    """Answer what is missing of some batches under each of the cells.

    Parameters
    ----------
    cells
        Of one run: same task, same prefill.
    batches
        Documents of equal settings each.
    store
        Holds every batch's responses once it is done: a batch is never half there.
    limits
        Bounds on what is decoded at a time.
    advance
        Called with the number of responses that became durable, after each batch.
    """
    for batch in batches:
        rows: list[Row] = []
        for documents, members in _missing(batch, cells, store):
            rows += _answer(checkpoint, documents, members, limits)
        store.commit(rows)
        advance(len(rows))


def key_of(cell: Cell, doc_id: int) -> ResponseKey:
    """What names a cell's response to a document."""
    return ResponseKey(cell.run, cell.key, cell.task, doc_id)


def _missing(
    batch: Sequence[Document], cells: Sequence[Cell], store: ResponseStore
) -> Iterator[tuple[list[Document], list[Cell]]]:
    """Documents of a batch with the cells that miss them, those together that are missed by the same."""
    missed_by: dict[int, list[Cell]] = {}
    for cell in cells:
        for doc_id in store.missing(cell.run, cell.key, cell.task, [document.doc_id for document in batch]):
            missed_by.setdefault(doc_id, []).append(cell)
    groups: dict[tuple[str, ...], tuple[list[Document], list[Cell]]] = {}
    for document in batch:
        members = missed_by.get(document.doc_id, [])
        groups.setdefault(tuple(cell.id for cell in members), ([], members))[0].append(document)
    return ((documents, members) for documents, members in groups.values() if members)


def _answer(
    checkpoint: Checkpoint, documents: Sequence[Document], cells: Sequence[Cell], limits: Limits
) -> list[Row]:
    """Responses of some documents under some cells; a document that cannot be asked fails alone."""
    rows: list[Row] = []
    askable: list[tuple[Document, list[dict[str, Any]]]] = []
    for document in documents:
        try:
            askable.append((document, document.conversation(cells[0].prompt)))
        except Exception as error:  # whatever a task's own code may raise for a broken document
            rows += [(key_of(cell, document.doc_id), failure(error)) for cell in cells]
    while askable:
        settings = askable[0][0].settings
        try:
            answers = answer(
                checkpoint,
                [conversation for _, conversation in askable],
                [cell.method for cell in cells],
                max_new_tokens=settings.max_new_tokens,
                until=settings.until,
                prefill=cells[0].prefill,
                limits=limits,
            )
        except (ValueError, OSError):
            broken = _refused(checkpoint, askable)
            if not broken:
                raise
            for document, reason in broken.items():
                rows += [(key_of(cell, document), failure(reason)) for cell in cells]
            askable = [pair for pair in askable if pair[0].doc_id not in broken]
            continue
        for cell, responses in zip(cells, answers, strict=True):
            for (document, _), response in zip(askable, responses, strict=True):
                rows.append((key_of(cell, document.doc_id), response))
        break
    return rows


def _refused(
    checkpoint: Checkpoint, askable: Sequence[tuple[Document, list[dict[str, Any]]]]
) -> dict[int, Exception]:
    """Documents that the processor cannot read, with the reason."""
    refused: dict[int, Exception] = {}
    for document, conversation in askable:
        try:
            prepare(checkpoint, [conversation])
        except (ValueError, OSError) as error:
            refused[document.doc_id] = error
    return refused
