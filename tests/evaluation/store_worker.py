"""A sweep without a model, run as a process that may be killed: made responses instead of measured ones.

``store_worker.py fill FOLDER``: answer all cells, going on where another process stopped
``store_worker.py hold FOLDER``: become a writer, then wait
``store_worker.py tear FOLDER``: be killed in the middle of a transaction that has reached the file
"""

import os
import random
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the package without its __init__, which imports torch
    bare = types.ModuleType("sparsemm")
    bare.__path__ = [str(Path(__file__).resolve().parents[2] / "sparsemm")]
    sys.modules["sparsemm"] = bare

from sparsemm.evaluation import storefile
from sparsemm.evaluation.responses import Response, ResponseKey
from sparsemm.evaluation.store import PlannedCell, ResponseStore

TASKS = ("look_up", "transcription", "chart")
METHODS = {"fullkv": None, "snapkv": 16, "adakv": 16, "sparsemm": 32}
DOCUMENTS, BATCH = 40, 2


def planned(tasks=TASKS, documents: int = DOCUMENTS) -> list[PlannedCell]:
    return [
        PlannedCell(
            f"run-{task}", f"cell-{method}", task, "made", method, budget, f"{task}-{method}", documents
        )
        for task in tasks
        for method, budget in METHODS.items()
    ]


def made(key: ResponseKey) -> Response:
    """A response that depends on its key alone."""
    draw = random.Random(repr(key))
    tokens = tuple(draw.randrange(1000) for _ in range(draw.randrange(3, 60)))
    text = " ".join(map(str, tokens)) + draw.choice(["", " é", ' "quoted"', " \N{SNOWMAN}\n"])
    layers = tuple(draw.uniform(8, 64) for _ in range(6))
    return Response(
        text, tokens, draw.randrange(90, 110), layers, 12, draw.random(), 1e6, f"image-{key.doc_id}"
    )


def batch(cells: list[PlannedCell], documents) -> list[tuple[ResponseKey, Response]]:
    keys = [ResponseKey(*cell[:3], document) for cell in cells for document in documents]
    return [(key, made(key)) for key in keys]


def fill(folder: Path) -> None:
    from_now = random.Random()
    with ResponseStore.open(folder, planned()) as store:
        say("open")
        for task in TASKS:
            cells = planned([task])
            for first in range(0, DOCUMENTS, BATCH):
                missing = [
                    (ResponseKey(*cell[:3], document), cell)
                    for cell in cells
                    for document in store.missing(*cell[:3], range(first, first + BATCH))
                ]
                if missing:
                    time.sleep(from_now.uniform(0, 0.01))
                    store.commit((key, made(key)) for key, _ in missing)
                    say(f"stored {task} {first}")
            finish(folder, cells, store)


def finish(folder: Path, cells: list[PlannedCell], store: ResponseStore) -> None:
    """Write the files of a task's cells, then the tables."""
    left = [cell for cell in cells if not (folder / "cells" / f"{cell.cell_id}.json").exists()]
    if not left and cells[0].task != TASKS[-1]:
        return  # the last task's tables hold them
    from sparsemm.evaluation.results import (
        derive_tables,
        write_cell,
    )  # pandas: a second, which not all starts need

    for cell in left:
        row, samples = scored(cell, store.responses(*cell[:3]))
        write_cell(folder, cell.cell_id, f"group-{cell.task}", row, samples)
        say(f"cell {cell.cell_id}")
    derive_tables(folder)
    say(f"tables {cells[0].task}")


def scored(cell: PlannedCell, answers: dict[int, Response]) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """What a cell's file holds."""
    given = answers.values()
    scores = [float(response.new_tokens % 2) for response in given]
    row = {
        **{"model": cell.model, "task": cell.task, "method": cell.method, "budget": cell.budget},
        **{"metric": "odd", "score": sum(scores) / len(scores), "n": len(scores)},
        "n_failed": sum(response.error is not None for response in given),
    }
    names = ("prompt_tokens", "new_tokens", "realised_budget", "evicted_tokens", "image", "error")
    samples = {
        "doc_id": list(answers),
        "score": scores,
        "response": [response.text for response in given],
        "tokens": [list(response.tokens) for response in given],
        **{name: [getattr(response, name) for response in given] for name in names},
    }
    return row, samples


def hold(folder: Path) -> None:
    with ResponseStore.open(folder, planned()):
        say("open")
        time.sleep(600)


def tear(folder: Path) -> None:
    store = ResponseStore.open(folder, planned())
    connection = store._connection
    connection.execute("PRAGMA cache_size = 5")  # pages: the others go to the file before the commit
    with storefile.transaction(connection):
        rows = [(*storefile.encode(*row), 0.0) for row in batch(planned(), range(100, 200))]
        connection.executemany(storefile.INSERT, rows)
        os.kill(os.getpid(), signal.SIGKILL)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    {"fill": fill, "hold": hold, "tear": tear}[sys.argv[1]](Path(sys.argv[2]))
