"""What each (layer, KV head) kept: from the store of responses to the table."""

import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sparsemm import cli
from sparsemm.cache import RaggedCache
from sparsemm.cache.stock import cache_argument
from sparsemm.evaluation import storefile
from sparsemm.evaluation.allocations import ALLOCATION_COLUMNS, load_allocations, pack, unpack
from sparsemm.evaluation.requests import load_documents
from sparsemm.evaluation.results import derive_tables
from sparsemm.evaluation.tables import load_results
from sparsemm.methods import AdaKV
from sparsemm.models.loading import load
from sparsemm.models.prompts import prepare

GRID = ["task=[tiny_docvqa]", "budget=[16,24]", "limit=4", "batch_size=3", "max_new_tokens=4"]
METHODS = "method=[fullkv,adakv,pyramidkv]"


def sweep(folder: Path, untrained: Path, *more: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert (
            cli.main(["sweep", f"model.pretrained={untrained}", "model.window=8", METHODS, *GRID, *more]) == 0
        )
    return folder / "results/sweep"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Path:
    return sweep(tmp_path_factory.mktemp("allocations"), untrained)


def table(folder: Path) -> Any:
    found = load_allocations(folder)
    assert found is not None
    return found


def test_counts_survive_packing_and_equal_ones_take_little():
    counts = np.random.default_rng(0).integers(0, 40_000, (32, 32))
    np.testing.assert_array_equal(unpack(pack(counts.ravel().tolist()), 32), counts)
    assert len(pack([256] * 1024)) < 50
    assert len(pack(np.random.default_rng(0).integers(8, 264, 1024).tolist())) < 2200


def test_every_head_has_a_row_and_their_mean_is_the_realised_budget(swept):
    rows = table(swept)
    assert list(rows.columns) == list(ALLOCATION_COLUMNS)
    assert len(rows) == 5 * 8 * 4  # cells, layers, KV heads
    assert (rows["n"] == 4).all()
    keys = ["method", "budget"]
    means = rows.fillna({"budget": 0}).groupby(keys)[["kept", "nominal"]].mean()
    cells: Any = load_results(swept).fillna({"budget": 0}).set_index(keys)["realised_budget"]
    assert means["kept"].to_numpy() == pytest.approx(cells.reindex(means.index).to_numpy())
    assert means["nominal"].dropna().tolist() == [16, 24, 16, 24]
    pyramid = rows[(rows["method"] == "pyramidkv") & (rows["budget"] == 24)]
    np.testing.assert_array_equal(pyramid["kept"], pyramid["nominal"])  # every prompt is longer
    assert pyramid.groupby("layer")["kept"].mean().is_monotonic_decreasing


def test_kept_is_what_real_eviction_keeps_head_by_head(swept, untrained):
    checkpoint = load({"pretrained": str(untrained), "dtype": "float32"}, "cpu")
    kept = np.zeros((8, 4))
    for document in load_documents("tiny_docvqa", limit=4, max_new_tokens=4):
        inputs = prepare(checkpoint, [document.conversation()])
        cache = RaggedCache(checkpoint.model.config, AdaKV(24, window=8))
        checkpoint.model.generate(**inputs, **cache_argument(cache), max_new_tokens=2, do_sample=False)
        kept += cache.stats().realised_per_head[:, 0].numpy()
    rows = table(swept)
    ours = rows[(rows["method"] == "adakv") & (rows["budget"] == 24)]
    np.testing.assert_allclose(ours.pivot(index="layer", columns="kv_head", values="kept"), kept / 4)
    assert (ours["nominal"] == 24).all()
    assert ours["kept"].std() > 0


def test_a_sweep_that_goes_on_from_its_responses_gives_the_same_table(swept, untrained, tmp_path):
    """Some responses are there, in batches cut otherwise; a budget is added."""
    shutil.copytree(swept.parents[1], tmp_path / "again")
    results = tmp_path / "again/results/sweep"
    shutil.rmtree(results / "cells")
    with closing(sqlite3.connect(results / "responses/0.sqlite")) as connection, connection:
        connection.execute("DELETE FROM response WHERE doc_id IN (1, 3)")
    sweep(tmp_path / "again", untrained, "batch_size=2")
    assert (results / "allocations.parquet").read_bytes() == (swept / "allocations.parquet").read_bytes()


def forget(results: Path, doc_ids: set[int]) -> None:
    """Make responses those of a version that did not count heads."""
    shutil.rmtree(results / "cells")
    with closing(sqlite3.connect(results / "responses/0.sqlite")) as connection, connection:
        for row in connection.execute(f"SELECT {storefile.COLUMNS} FROM response").fetchall():
            key, response = storefile.decode(row)
            if key.doc_id not in doc_ids:
                continue
            stated = storefile.encode(key, replace(response, kept=""))
            content = json.loads(stated[5])
            del content["kept"]
            old = (*stated[:5], json.dumps(content, separators=(",", ":")))
            connection.execute(storefile.INSERT, (*old, storefile._checksum(old), 0.0))


@pytest.mark.parametrize("doc_ids", [{0, 1, 2, 3}, {2}], ids=["all", "one"])
def test_responses_of_an_older_version_are_used_and_never_counted(swept, untrained, tmp_path, doc_ids):
    shutil.copytree(swept.parents[1], tmp_path / "old")
    results = tmp_path / "old/results/sweep"
    forget(results, doc_ids)
    sweep(tmp_path / "old", untrained)
    assert (results / "cells.csv").read_bytes() == (swept / "cells.csv").read_bytes()
    assert load_allocations(results) is None
    sweep(tmp_path / "old", untrained, "budget=[32]")  # new responses are counted
    assert set(zip(*table(results)[["method", "budget"]].drop_duplicates().T.to_numpy(), strict=True)) == {
        ("adakv", 32),
        ("pyramidkv", 32),
    }


def test_a_cells_file_with_a_broken_allocation_is_named(swept, tmp_path):
    shutil.copytree(swept, tmp_path / "broken")
    file = sorted((tmp_path / "broken/cells").iterdir())[0]
    cell = json.loads(file.read_text())
    for allocation in ({"n": 0}, {"n": 4, "kept": [[1, 2], [3]]}, {"n": 4, "kept": [["a"]]}, [4]):
        file.write_text(json.dumps(cell | {"allocation": allocation}))
        with pytest.raises(ValueError, match=f"{file.name} is no cell's file"):
            derive_tables(tmp_path / "broken")
    file.write_text(json.dumps({key: value for key, value in cell.items() if key != "allocation"}))
    derive_tables(tmp_path / "broken")
    assert table(tmp_path / "broken")["cell"].nunique() == 4


def test_a_file_that_is_no_table_is_said_to_be_none(tmp_path):
    (tmp_path / "allocations.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(ValueError, match=r"allocations\.parquet is no table"):
        load_allocations(tmp_path)
    pd.DataFrame({"cell": ["a"]}).to_parquet(tmp_path / "allocations.parquet")
    with pytest.raises(ValueError, match="lacks the columns model"):
        load_allocations(tmp_path)
