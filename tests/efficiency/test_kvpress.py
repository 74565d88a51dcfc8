"""The comparison with kvpress: our half is really run, theirs needs an environment of its own."""

import sys
from pathlib import Path
from typing import Any

import pytest

from sparsemm import efficiency
from sparsemm.configs import InputError
from sparsemm.efficiency import decode_table
from sparsemm.efficiency.__main__ import configuration
from sparsemm.efficiency.kvpress import COLUMNS, Options, _ratio, _round, _rows

CUT = ("lengths=[64]", "budget=16", "window=8", "new_tokens=4", "warm_up=1", "rounds=1", "layers=1")


def options(**others: Any) -> Options:
    config = configuration(["kvpress", *CUT, f"python={sys.executable}"])
    return Options(**{name: config[name] for name in Options.__dataclass_fields__} | others)


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    """What our half of a round measures."""
    task = {**vars(options()), "engine": "sparsemm", "prompt_tokens": 64, "device": "cpu"}
    return _round(sys.executable, task)["methods"]


def test_our_half_holds_what_the_budget_says(ours: dict[str, Any]) -> None:
    entry = 2 * 128 * 4  # K and V of a token in a KV head
    assert ours["fullkv"]["kv_bytes"] == 64 * 8 * entry
    assert ours["fullkv"]["realised_budget"] == 64
    for method in ("snapkv", "adakv"):
        assert ours[method]["realised_budget"] == 16
        slack = 5 * 8 * entry  # warm-up and timed steps
        assert 16 * 8 * entry <= ours[method]["kv_bytes"] <= 1.25 * (16 * 8 * entry + slack)
        assert len(ours[method]["steps_ms"]) == 4
        assert len(ours[method]["tokens"]) == 5


def test_rows_compare_method_by_method(ours: dict[str, Any]) -> None:
    slower = {name: {**run, "steps_ms": [3 * step for step in run["steps_ms"]]} for name, run in ours.items()}
    slower["adakv"] = {**slower["adakv"], "tokens": [*ours["adakv"]["tokens"][:2], -1, -1, -1]}
    rows = _rows(options(), 64, {"kvpress": [slower], "sparsemm": [ours]})
    assert [(row["method"], row["engine"]) for row in rows] == [
        (method, engine) for method in ("fullkv", "snapkv", "adakv") for engine in ("kvpress", "sparsemm")
    ]
    assert {name for row in rows for name in row} <= set(COLUMNS)
    assert [row["ratio_kvpress"] for row in rows[1::2]] == pytest.approx([3, 3, 3])
    assert [row["same_tokens"] for row in rows[1::2]] == [1, 1, 2 / 5]
    assert rows[0]["ratio"] == rows[1]["ratio"] == 1
    full = [ours["fullkv"]]
    assert rows[3]["ratio"] == pytest.approx(_ratio(full, [ours["snapkv"]]))


def test_an_environment_without_kvpress_is_named_in_one_line(tmp_path: Any) -> None:
    config = configuration(["kvpress", *CUT, f"python={sys.executable}", f"output={tmp_path}"])
    with pytest.raises(InputError, match=r"kvpress under .* failed: .*No module named 'kvpress'"):
        efficiency.run(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"python": None}, "python must be that of an environment with kvpress"),
        ({"python": "/no/such/python"}, "python must be"),
        ({"methods": ["snapkv", "adakw"]}, "unknown method 'adakw'"),
        ({"budget": 4}, "budget must be at least the window"),
        ({"lengths": [16]}, "lengths must be"),
        ({"rounds": 0}, "rounds must be a positive integer"),
        ({"dtype": "float64"}, "unknown dtype 'float64'"),
    ],
)
def test_wrong_options_are_refused(others: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        options(**others)


@pytest.mark.parametrize("columns", [COLUMNS, decode_table.COLUMNS], ids=["kvpress", "decode"])
def test_the_page_says_what_every_column_is(columns: dict[str, str]) -> None:
    page = Path("docs/efficiency.md").read_text(encoding="utf-8")
    assert "".join(f"| `{name}` | {meaning} |\n" for name, meaning in columns.items()) in page + "\n"
