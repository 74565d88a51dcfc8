"""The tables' schema: documentation, derived files and code say the same; broken tables are refused."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsemm.evaluation.allocations import ALLOCATION_COLUMNS
from sparsemm.evaluation.comparisons import COMPARISON_COLUMNS
from sparsemm.evaluation.results import derive_tables, write_cell
from sparsemm.evaluation.tables import (
    CELL_COLUMNS,
    SAMPLE_COLUMNS,
    SCHEMA_VERSION,
    STORED_SAMPLES,
    Column,
    load_results,
)

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "results.md"

# What other programs may rely on.
COLUMNS = [
    *("model", "task", "metric", "method", "budget", "window", "overflow", "rounding", "head_scores"),
    *(
        "prompt",
        "ablation",
        "fraction",
        "ablation_params",
        "seed",
        "method_params",
        "score",
        "ci_low",
        "ci_high",
        "n",
        "n_failed",
    ),
    *("diff_full", "diff_ci_low", "diff_ci_high", "agreement_full", "agreement_prefix"),
    *("realised_budget", "n_uncompressed", "kv_bytes", "full_kv_bytes", "prefill_s", "decode_s_per_token"),
    *("device", "dtype", "schema_version"),
]


@pytest.fixture
def derived(tmp_path: Path) -> Path:
    """Tables of two cells in which every column is filled somewhere."""
    for name, budget in (("fullkv", None), ("random", 16)):
        row = {
            **{"model": "m", "task": "t", "metric": "x", "method": name, "budget": budget, "score": 0.5},
            **{"window": 8, "overflow": "drop", "rounding": "exact", "head_scores": "s@1", "seed": 0},
            **{"prompt": "image_question", "method_params": '{"kernel": 5}', "n": 2, "realised_budget": 16.5},
            **{"n_uncompressed": 0, "kv_bytes": 10, "full_kv_bytes": 20, "prefill_s": 0.1},
            **{"decode_s_per_token": 0.1, "device": "cpu", "dtype": "float32"},
            "schema_version": SCHEMA_VERSION,
        }
        if name == "random":  # FullKV without an ablation is what all are compared with
            row |= {"ablation": "a", "fraction": 0.1, "ablation_params": '{"mode": "remove"}'}
        samples = {
            **{"doc_id": [0, 1], "response": ["a", ""], "target": ["1", "2"], "score": [1.0, 0.0]},
            **{"prompt_tokens": [9, 9], "new_tokens": [2, 0], "realised_budget": [16.0, 17.0]},
            **{"evicted_tokens": [5, 6], "tokens": [[4, 1], []], "image": ["u", "v"]},
            "error": [None, "no image"],
        }
        assert set(samples) | {"aggregated"} == set(STORED_SAMPLES)
        write_cell(tmp_path, name, "g", row, samples)
    derive_tables(tmp_path)
    return tmp_path


def documented(columns: dict[str, Column]) -> str:
    """The table of docs/results.md; after a change of columns, put what the failing test prints there."""
    lines = [f"| `{name}` | {column.type} | {column.meaning} |" for name, column in columns.items()]
    return "\n".join(["| column | type | meaning |", "| --- | --- | --- |", *lines])


@pytest.mark.parametrize(
    ("file", "columns"),
    [
        ("cells.csv", CELL_COLUMNS),
        ("comparisons.csv", COMPARISON_COLUMNS),
        ("samples.parquet", SAMPLE_COLUMNS),
        ("allocations.parquet", ALLOCATION_COLUMNS),
    ],
)
def test_documentation_is_the_schema(file, columns):
    section = DOCUMENTATION.read_text(encoding="utf-8").split(f"\n## {file}\n\n")[1]
    assert section.split("\n\n")[0] == documented(columns)


def test_a_derived_table_of_cells_has_the_documented_columns_and_types(derived):
    assert list(CELL_COLUMNS) == COLUMNS
    table: Any = pd.read_csv(derived / "cells.csv", dtype=str, keep_default_na=False)
    assert list(table.columns) == COLUMNS
    for name, column in CELL_COLUMNS.items():
        values = [value for value in table[name] if value]
        assert values, name
        if column.type == "integer":
            assert all(value.lstrip("-").isdigit() for value in values), name
        elif column.type == "number":
            assert all(isinstance(float(value), float) for value in values), name
        else:
            assert column.type == "text", name
            assert all(isinstance(value, str) for value in load_results(derived)[name].dropna()), name


def test_derived_samples_have_the_documented_columns_and_types(derived):
    schema = pq.read_schema(derived / "samples.parquet")
    types = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
    assert {field.name: field.type for field in schema} == {
        name: types[column.type] for name, column in SAMPLE_COLUMNS.items()
    }
    assert schema.names == list(SAMPLE_COLUMNS)
    samples: Any = pd.read_parquet(derived / "samples.parquet")
    assert samples.notna().any().all()


def test_empty_columns_keep_their_types(derived):
    (derived / "cells" / "fullkv.json").unlink()
    derive_tables(derived)
    schema = pq.read_schema(derived / "samples.parquet")
    assert schema.field("agreement_full").type == pa.bool_()
    assert schema.field("agreement_prefix").type == pa.float64()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "is empty"),
        (lambda text: text.split("\n")[0] + "\n", "no cell of the sweep is finished"),
        (lambda text: text[: len(text) // 2], "lacks the columns|cut off|no table"),
        (lambda text: text[: text.rindex(",")], "cut off"),
        (lambda text: text[: text.rindex("{")], "no table of cells"),
        (lambda text: text.replace(",score,", ",scores,", 1), "lacks the columns score"),
        (lambda text: text.replace(",n_failed,", ",", 1), "lacks the columns n_failed"),
        (lambda text: text.replace("0.5", "half"), "column score holds what is no number"),
        (lambda text: text.replace(f",{SCHEMA_VERSION}\n", f",{SCHEMA_VERSION + 1}\n"), "newer sparsemm"),
        (lambda text: "\x00" * 40, "lacks the columns|no table"),
    ],
)
def test_broken_tables_are_refused_in_one_line(derived, change, message):
    file = derived / "cells.csv"
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=message) as error:
        load_results(derived)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value)


def test_bytes_that_are_no_text_are_refused_in_one_line(derived):
    (derived / "cells.csv").write_bytes(b"PAR1\xff\xfe\x80\x81")
    with pytest.raises(ValueError, match="no table of cells"):
        load_results(derived)


def test_no_table_at_all(tmp_path):
    for path in (tmp_path, tmp_path / "cells.csv", tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="no results"):
            load_results(path)
