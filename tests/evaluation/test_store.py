"""The response store: real files, real processes, real faults."""

import json
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from sparsemm.configs import InputError
from sparsemm.evaluation import storefile
from sparsemm.evaluation.responses import Response, ResponseKey
from sparsemm.evaluation.store import PlannedCell, ResponseStore
from tests.evaluation import store_worker
from tests.evaluation.provoking import mounted
from tests.evaluation.store_worker import batch, made, planned

CELLS = planned()
FIRST, OTHER = CELLS[0], CELLS[1]
FAILED = Response("", (), 0, (), 0, 0.0, 0.0, error="unreadable image")


def rows(folder: Path) -> list[tuple]:
    """What lies in the files of a folder, doubles included."""
    found = []
    for file in sorted((folder / "responses").glob("*.sqlite")):
        with closing(sqlite3.connect(file)) as connection:
            found += connection.execute("SELECT run, cell, task, doc_id, failed FROM response").fetchall()
    return found


def key(cell: PlannedCell, doc_id: int) -> ResponseKey:
    return ResponseKey(*cell[:3], doc_id)


def filled(folder: Path, documents=range(40)) -> Path:
    """A folder that a writer has left; returns its store file."""
    with ResponseStore.open(folder, CELLS) as store:
        store.commit(batch(CELLS, documents))
    return store.path


@contextmanager
def worker(what: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has opened the folder."""
    command = [sys.executable, store_worker.__file__, what, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_responses_come_back_as_they_were(tmp_path):
    full = replace(made(key(FIRST, 7)), prefill_s=0.1, decode_s=1e-300, text='nul \0, "quotes", \ud800 é\n')
    with ResponseStore.open(tmp_path, CELLS) as store:
        assert store.missing(*FIRST[:3], [9, 7, 8]) == [9, 7, 8]
        store.commit([(key(FIRST, 7), full), (key(OTHER, 7), FAILED), (key(FIRST, 2), made(key(FIRST, 2)))])
        assert store.missing(*FIRST[:3], [9, 7, 8]) == [9, 8]
        assert store.missing(*FIRST[:3], []) == []
    with ResponseStore.open(tmp_path, CELLS) as store:
        assert store.responses(*FIRST[:3]) == {2: made(key(FIRST, 2)), 7: full}
        assert list(store.responses(*FIRST[:3])) == [2, 7]
        assert store.responses(*OTHER[:3]) == {7: FAILED}
        assert store.missing(*OTHER[:3], [7]) == [7]  # to be tried again
        assert store.notices == []
        assert store.path.name == "0.sqlite"
    assert FAILED.realised_budget == 0.0


def test_shares_of_a_batchs_bytes_are_not_taken_for_a_documents_own(tmp_path):
    """Version 1 stored those, and no version beside them."""
    old = made(key(FIRST, 7))
    stated = (*key(FIRST, 7), 0, json.dumps(vars(old)))
    with ResponseStore.open(tmp_path, CELLS) as store:
        with storefile.transaction(store._connection) as connection:
            connection.execute(storefile.INSERT, (*stated, storefile._checksum(stated), 0.0))
        assert store.responses(*FIRST[:3]) == {7: replace(old, kv_bytes=None, full_kv_bytes=None)}


def test_a_success_replaces_a_failure_and_nothing_is_doubled(tmp_path):
    good, other = made(key(FIRST, 1)), replace(made(key(FIRST, 1)), text="other")
    with ResponseStore.open(tmp_path, CELLS) as store:
        store.commit([(key(FIRST, 1), FAILED), (key(FIRST, 1), good), (key(FIRST, 1), other)])
        assert store.responses(*FIRST[:3]) == {1: good}
        for later in (FAILED, other):
            store.commit([(key(FIRST, 1), later)])
            assert store.responses(*FIRST[:3]) == {1: good}
        store.commit([(key(FIRST, 2), FAILED)])
        store.commit([(key(FIRST, 2), good)])
        assert store.responses(*FIRST[:3])[2] == good
    assert len(rows(tmp_path)) == 2


def test_several_writers_are_read_as_one(tmp_path):
    with (
        ResponseStore.open(tmp_path, CELLS, job="j") as one,
        ResponseStore.open(tmp_path, CELLS, job="j") as two,
    ):
        assert [one.path.name, two.path.name] == ["0.sqlite", "1.sqlite"]
        one.commit([*batch([FIRST], [1]), (key(FIRST, 2), FAILED), (key(FIRST, 4), FAILED)])
        two.commit(batch([FIRST], [1, 2, 3]))  # 1 is answered already
        for store in (one, two):
            assert store.missing(*FIRST[:3], range(6)) == [0, 4, 5]
            assert store.responses(*FIRST[:3]) == {
                **{doc: made(key(FIRST, doc)) for doc in (1, 2, 3)},
                4: FAILED,
            }
    assert len([row for row in rows(tmp_path) if not row[-1]]) == 3


def test_a_commit_is_all_or_nothing(tmp_path):
    broken = replace(made(key(FIRST, 3)), tokens=(object(),))  # type: ignore[arg-type]
    with ResponseStore.open(tmp_path, CELLS) as store:
        with pytest.raises(TypeError):
            store.commit([*batch([FIRST], [1, 2]), (key(FIRST, 3), broken)])
        unbindable = ResponseKey(FIRST.run, FIRST.cell, FIRST.task, 2**70)
        with pytest.raises(OverflowError):
            store.commit([*batch([FIRST], [1, 2]), (unbindable, made(unbindable))])
        assert store.responses(*FIRST[:3]) == {}
        store.commit(batch([FIRST], [1]))
    assert len(rows(tmp_path)) == 1


def test_a_grids_batch_is_fast(tmp_path):
    cells = [FIRST._replace(cell=f"cell-{number}") for number in range(36)]
    with ResponseStore.open(tmp_path, cells) as store:
        times = []
        for first in range(0, 512, 32):
            responses = batch(cells, range(first, first + 32))
            start = time.perf_counter()
            store.commit(responses)
            times.append(time.perf_counter() - start)
        start = time.perf_counter()
        assert len(store.responses(FIRST.run, "cell-3", FIRST.task)) == 512
        read = time.perf_counter() - start
    print(f"1152 rows: {1000 * sorted(times)[8]:.0f} ms, 512 read: {1000 * read:.1f} ms")
    assert sorted(times)[8] < 1  # about 50 ms; a busy machine is not a wrong answer
    assert len(rows(tmp_path)) == 36 * 512


def test_the_same_cells_are_refused_while_another_process_lives(tmp_path):
    with worker("hold", tmp_path) as other:
        with pytest.raises(InputError) as refusal:
            ResponseStore.open(tmp_path, CELLS[-1:])
        message = str(refusal.value)
        assert f"process {other.pid} on {socket.gethostname()}" in message
        assert str(tmp_path) in message
        assert "\n" not in message
        mine = [FIRST._replace(cell="mine")]
        with ResponseStore.open(tmp_path, mine) as store:  # other cells: welcome
            assert store.path.name == "1.sqlite"
            store.commit(batch(mine, [1]))
        with pytest.raises(InputError):
            ResponseStore.open(tmp_path, CELLS, job="another job")
        assert sorted(file.name for file in (tmp_path / "responses").glob("*.sqlite")) == [
            "0.sqlite",
            "1.sqlite",
        ]
        other.kill()  # SIGKILL: no chance to tidy up
        other.wait()
        with ResponseStore.open(tmp_path, CELLS) as store:
            assert store.path.name == "0.sqlite"


def test_of_many_that_start_at_once_one_writes(tmp_path):
    command = [sys.executable, store_worker.__file__, "hold", str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) for _ in range(4)]
    try:
        end = time.monotonic() + 60
        while sum(process.poll() is None for process in processes) > 1:
            assert time.monotonic() < end, "several write the same cells"
            time.sleep(0.05)
        [winner] = [process for process in processes if process.poll() is None]
        for loser in set(processes) - {winner}:
            assert f"process {winner.pid} on" in loser.communicate()[1]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [file.name for file in (tmp_path / "responses").glob("*.sqlite")] == ["0.sqlite"]


def test_a_killed_transaction_is_rolled_back(tmp_path):
    file = filled(tmp_path)
    before = file.stat().st_size
    command = [sys.executable, store_worker.__file__, "tear", str(tmp_path)]
    assert subprocess.run(command).returncode == -9
    assert file.stat().st_size > before, "nothing of the transaction reached the file"
    assert file.with_name("0.sqlite-journal").stat().st_size > 0
    with ResponseStore.open(tmp_path, CELLS) as store:
        assert store.notices == []
        assert store.path == file
        for cell in CELLS:
            assert store.responses(*cell[:3]) == {doc: made(key(cell, doc)) for doc in range(40)}


def test_a_wrong_checksum_counts_as_missing(tmp_path):
    file = filled(tmp_path, range(3))
    with closing(sqlite3.connect(file)) as connection, connection:
        change = "UPDATE response SET content = replace(content, '12', '13') WHERE doc_id = 1 AND cell = ?"
        assert connection.execute(change, (FIRST.cell,)).rowcount == len(store_worker.TASKS)
    with ResponseStore.open(tmp_path, CELLS) as store:
        assert store.missing(*FIRST[:3], range(3)) == [1]
        assert set(store.responses(*FIRST[:3])) == {0, 2}
        store.commit(batch([FIRST], range(3)))
        assert store.responses(*FIRST[:3]) == {doc: made(key(FIRST, doc)) for doc in range(3)}
    assert len(rows(tmp_path)) == 3 * len(CELLS)


def cut(file: Path, size: int) -> None:
    """Cut the last page in half: the power failed."""
    os.truncate(file, size - 2048)


def lose(file: Path, size: int) -> None:
    """Cut the last ten pages."""
    os.truncate(file, size - 10 * 4096)


def overwrite(file: Path, size: int) -> None:
    """The last page holds something else."""
    with file.open("r+b") as handle:
        handle.seek(size - 4096)
        handle.write(os.urandom(4096))


@pytest.mark.parametrize("tear", [cut, lose, overwrite])
def test_what_a_torn_file_still_holds_is_salvaged(tmp_path, tear):
    file = filled(tmp_path)
    size = file.stat().st_size
    assert size > 50 * 4096
    tear(file, size)
    torn = file.read_bytes()
    with ResponseStore.open(tmp_path, CELLS) as store:
        kept = {
            (cell, doc): response for cell in CELLS for doc, response in store.responses(*cell[:3]).items()
        }
        assert 0.5 * 40 * len(CELLS) < len(kept) < 40 * len(CELLS)
        assert all(response == made(key(cell, doc)) for (cell, doc), response in kept.items())
        [notice] = store.notices
        assert f"{len(kept)} of its responses could be read" in notice
        assert file.with_name("0.sqlite.damaged").read_bytes() == torn
        store.commit(batch(CELLS, range(40)))
    assert len(rows(tmp_path)) == len(set(rows(tmp_path))) == 40 * len(CELLS)
    with ResponseStore.open(tmp_path, CELLS) as store:
        assert store.notices == []
        assert store.path.name == "1.sqlite"


def test_a_file_of_something_else_is_put_aside(tmp_path):
    here = tmp_path / "responses"
    here.mkdir()
    (here / "0.sqlite").write_text("no database " * 1000)
    with closing(sqlite3.connect(here / "1.sqlite")) as connection:
        connection.execute("CREATE TABLE another (x)")
    (here / "2.sqlite").touch()  # a writer was killed before its first transaction
    (here / "1.sqlite.damaged").write_text("from before")
    with ResponseStore.open(tmp_path, CELLS) as store:
        assert store.path.name == "2.sqlite"
        assert [": 0 of its responses could be read" in notice for notice in store.notices] == [True, True]
        store.commit(batch(CELLS, [1]))
    names = {file.name for file in here.iterdir() if file.suffix != ".lock"}
    assert names == {"0.sqlite.damaged", "1.sqlite.damaged", "1.sqlite.damaged.1", "2.sqlite"}
    assert (here / "1.sqlite.damaged").read_text() == "from before"


def test_a_living_writers_damaged_file_is_left_alone(tmp_path):
    with worker("hold", tmp_path) as other:
        file = tmp_path / "responses" / "0.sqlite"
        overwrite(file, file.stat().st_size)  # the plan's page
        with pytest.raises(
            InputError, match=r"another process writes to .*0\.sqlite, and its plan cannot be read"
        ):
            ResponseStore.open(tmp_path, CELLS)
        assert other.poll() is None
        assert not list(file.parent.glob("*.damaged"))


def fill_until_it_fails(store: ResponseStore) -> tuple[int, str]:
    """How many batches could be stored, and what was said then."""
    for number in range(1000):
        try:
            store.commit(batch(CELLS, range(10 * number, 10 * number + 10)))
        except OSError as error:
            return number, str(error)
    raise AssertionError("it never failed")


def check_what_is_left(folder: Path, batches: int, message: str) -> None:
    assert batches > 0
    assert f"cannot store or read responses in {folder / 'responses'}: " in message
    assert "\n" not in message
    assert len(rows(folder)) == batches * 10 * len(CELLS)  # nothing of the batch that failed


def test_full_disk(tmp_path):
    with mounted(folder := tmp_path / "small", "size=1m"):
        with ResponseStore.open(folder, CELLS) as store:
            batches, message = fill_until_it_fails(store)
            assert "full" in message
            assert len(store.responses(*FIRST[:3])) == 10 * batches
        check_what_is_left(folder, batches, message)


def test_a_file_that_may_not_grow(tmp_path):
    """What a full disk does, where nothing can be mounted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ResponseStore.open(tmp_path, CELLS) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
        try:
            batches, message = fill_until_it_fails(store)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        check_what_is_left(tmp_path, batches, message)
        store.commit(batch(CELLS, range(10 * batches, 10 * batches + 10)))  # there is room again
    assert len(rows(tmp_path)) == (batches + 1) * 10 * len(CELLS)


def test_read_only_folder(tmp_path):
    with mounted(folder := tmp_path / "fixed", "size=8m"):
        filled(folder)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(
            OSError, match=f"cannot store responses in {folder}/responses: Read-only file system"
        ):
            ResponseStore.open(folder, CELLS)


def test_a_folder_that_cannot_be_made():
    with pytest.raises(OSError, match="cannot store responses in /proc/results/responses: "):
        ResponseStore.open(Path("/proc/results"), CELLS)
