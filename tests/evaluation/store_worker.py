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
    """Write the cells' files, and the tables after each."""
    if (
        all((folder / "cells" / f"{cell.cell_id}.json").exists() for cell in cells)
        and cells[0].task != TASKS[-1]
    ):
        return
    from sparsemm.evaluation.results import cell_file, derive_tables, write_cell
    from sparsemm.evaluation.tables import SCHEMA_VERSION

    for cell in cells:
        if not cell_file(folder, cell.cell_id).exists():
            answers = store.responses(*cell[:3])
            scores = [float(response.new_tokens % 2) for response in answers.values()]
            row = {"model": "made", "task": cell.task, "metric": "odd", "method": cell.method}
            row |= {
                "budget": cell.budget,
                "score": sum(scores) / len(scores),
                "n": len(scores),
                "n_failed": 0,
            }
            row |= {"schema_version": SCHEMA_VERSION}
            samples = {
                "doc_id": list(answers),
                "target": ["1"] * len(scores),
                "score": scores,
                "response": [response.text for response in answers.values()],
                "tokens": [list(response.tokens) for response in answers.values()],
                "realised_budget": [response.realised_budget for response in answers.values()],
            }
            names = ("prompt_tokens", "new_tokens", "evicted_tokens", "image", "error")
            samples |= {name: [getattr(response, name) for response in answers.values()] for name in names}
            write_cell(folder, cell.cell_id, f"group-{cell.task}", row, samples)
            say(f"cell {cell.cell_id}")
    derive_tables(folder)
    say(f"tables {cells[0].task}")


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
