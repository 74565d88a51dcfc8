"""What the sample explorer knows: every document's answers, each text once, and who gave which."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from sparsemm.configs import InputError, nearest
from sparsemm.configs import names as names_of
from sparsemm.configs import read as read_config
from sparsemm.report.folder import Results
from sparsemm.report.pictures import Shown, documents_of
from sparsemm.report.tables import number, text

PICTURE_BYTES = 15_000_000
"""What the pictures of all tasks together may take in the page."""

DOCUMENTS = 2000
"""Documents in the page, of all tasks together, if nothing else is asked for."""


@dataclass
class Explorer:
    """The explorer's data: ``groups`` as of `tables.groups`, pictures by task, and what is missing."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, list[str]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)


def explorer(
    results: Results,
    groups: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    *,
    documents: int = DOCUMENTS,
    data: Mapping[str, str] | None = None,
) -> Explorer:
    """Collect the samples of a results folder.

    Parameters
    ----------
    results : Results
    groups, rows : sequence
        As of `tables.groups` and `tables.cell_rows`.
    documents : int, default 2000
        How many, in equal shares of the models and tasks, from the first on.
    data : mapping, optional
        Parquet files by task, where they are not in the results folder.

    Raises
    ------
    InputError
        `data` names a task that is not in the results, or files that cannot be used.
    """
    found = Explorer()
    if results.samples is None or not groups:
        return found
    share = max(1, documents // len(groups))
    tasks = list(dict.fromkeys(str(group["task"]) for group in groups))
    for task in data or {}:
        if task not in tasks:
            raise InputError(f"--data: there is no task {task!r} in {results.folder}; {nearest(task, tasks)}")
    shown: dict[str, list[Shown]] = {}
    last = results.samples.groupby("task")["doc_id"].max()
    for task in tasks:
        count = min(share, int(last[task]) + 1)
        given = (data or {}).get(task)
        try:
            shown[task] = documents_of(
                task, _options(results, task), given, count, PICTURE_BYTES // len(tasks), results.folder
            )
        except InputError as error:
            if given is not None:
                raise
            shown[task] = []
            found.notices.append(f"no pictures and questions of {task}: {error}")
        found.pictures[task] = [one.picture for one in shown[task]]
        broken = [(at, one.problem) for at, one in enumerate(shown[task]) if one.problem]
        if broken:
            at, problem = broken[0]
            found.notices.append(
                f"{len(broken)} of {len(shown[task])} pictures of {task} cannot be shown, "
                f"the first of document {at}: {problem}"
            )
    by_cell = dict(iter(results.samples.groupby("cell", sort=False)))
    for at, group in enumerate(groups):
        mine = [(index, row) for index, row in enumerate(rows) if row["group"] == at]
        part, foreign = _group(
            [(index, by_cell[row["id"]]) for index, row in mine], shown[group["task"]], share
        )
        if foreign:
            found.notices.append(
                f"{group['name']}: {foreign} documents are not those that the sweep saw: they have no "
                "picture and no question here"
            )
        found.groups.append(part)
    return found


def _options(results: Results, task: str) -> Mapping[str, Any]:
    """The task's options as the sweep had them; the configuration tree's where the folder does not say."""
    tasks = results.run.get("config", {}).get("tasks")
    options = tasks.get(task) if isinstance(tasks, dict) else None
    if isinstance(options, dict):
        return options
    return read_config("task", task) if task in names_of("task") else {}


def _group(
    cells: Sequence[tuple[int, pd.DataFrame]], shown: Sequence[Shown], share: int
) -> tuple[dict[str, Any], int]:
    """One model and task; and how many documents' images are others than those at hand.

    ``answers`` has for each document its different answers, ``[text, score]`` or ``[text, score, error]``;
    ``given`` for each cell their numbers from 1 on (0: the cell lacks the document), 16-bit integers in
    base64.
    """
    everything = pd.concat([table for _, table in cells], ignore_index=True)
    doc_ids = sorted(int(doc_id) for doc_id in everything["doc_id"].unique())
    total, doc_ids = len(doc_ids), doc_ids[:share]
    place = {doc_id: at for at, doc_id in enumerate(doc_ids)}
    answers: list[list[list[Any]]] = [[] for _ in doc_ids]
    known: list[dict[tuple[Any, ...], int]] = [{} for _ in doc_ids]
    given: dict[str, str] = {}
    for index, table in cells:
        numbers = np.zeros(len(doc_ids), dtype="<u2")
        columns = (table[name].tolist() for name in ("doc_id", "response", "score", "error"))
        for doc_id, response, score, error in zip(*columns, strict=True):
            at = place.get(int(doc_id))
            if at is None:
                continue
            answer = (text(response), _score(score), *([text(error)] if text(error) else []))
            numbers[at] = known[at].setdefault(answer, len(known[at]) + 1)
            if numbers[at] > len(answers[at]):
                answers[at].append(list(answer))
        given[str(index)] = base64.b64encode(numbers.tobytes()).decode("ascii")
    firsts = everything.drop_duplicates("doc_id").set_index("doc_id").loc[doc_ids]
    images = firsts["image"].tolist()
    problems = [shown[doc_id].problem if doc_id < len(shown) else "" for doc_id in doc_ids]
    # A document that the sweep could not read either has no hash there.
    fits = [
        doc_id < len(shown) and (image in shown[doc_id].images or (bool(problem) and not text(image)))
        for doc_id, image, problem in zip(doc_ids, images, problems, strict=True)
    ]
    part = {
        "documents": doc_ids,
        "total": total,
        "questions": [
            shown[doc_id].question if fit else None for doc_id, fit in zip(doc_ids, fits, strict=True)
        ],
        "pictured": [int(fit and not problem) for fit, problem in zip(fits, problems, strict=True)],
        "problems": {str(at): problem for at, problem in enumerate(problems) if problem},
        "targets": [_target(value) for value in firsts["target"].tolist()],
        "prompt_tokens": [number(value) for value in firsts["prompt_tokens"].tolist()],
        "answers": answers,
        "given": given,
    }
    foreign = sum(not fit and not problem for fit, problem in zip(fits, problems, strict=True))
    return part, foreign if shown else 0


def _score(value: Any) -> float | int | None:
    found = number(value)
    return None if found is None else number(round(found, 4))


def _target(value: Any) -> list[str]:
    """The accepted answers, each once; a target that is no JSON is one answer."""
    raw = text(value)
    try:
        held = json.loads(raw)
    except ValueError:
        return [raw]
    if not isinstance(held, list):
        held = [held]
    return list(
        dict.fromkeys(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in held)
    )
