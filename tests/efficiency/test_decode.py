"""The decode benchmark, really run on small models: what its table says holds, whatever the speed."""

import csv
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from sparsemm import cli, efficiency
from sparsemm.configs import InputError, read
from sparsemm.efficiency import decode_bench
from sparsemm.efficiency.__main__ import configuration, main
from sparsemm.efficiency.clocks import Clock, Peak, copy_bandwidth
from sparsemm.efficiency.contenders import contenders, methods_of
from sparsemm.efficiency.decode_table import COLUMNS, IDENTITY, command_of, key_of
from sparsemm.efficiency.shapes import SHAPES

CUT = (
    "shapes=[small,checkpoint]",
    "lengths=[96,160]",
    "methods=[snapkv,sparsemm]",
    "budgets=[40]",
    "new_tokens=4",
    "rounds=2",
    "warm_up=1",
    "device=cpu",
)
TEXTS = {
    *(
        "shape",
        "weights",
        "prompt",
        "method",
        "cache",
        "decoding",
        "backend",
        "head_scores",
        "dtype",
        "device",
    ),
    *("decoded_by", "failed", "date"),
}


def run(output: Path, *options: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a cut, and what was reported before every turn."""
    told: list[str] = []
    config = configuration(["decode", *CUT, *options, f"output={output}"])
    return efficiency.run(config, lambda done, total, text: told.append(text)).rows, told


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "decode.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == list(COLUMNS)
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("decode")
    assert cli.main(["efficiency", "decode", *CUT, f"output={output}"]) == 0
    return output


@pytest.fixture(scope="module")
def rows(folder) -> list[dict[str, str]]:
    return table(folder)


def test_every_contender_has_a_row_at_every_length(rows):
    wanted = [("fullkv", "dynamic"), ("fullkv", "static"), ("snapkv", "ragged"), ("sparsemm", "ragged")]
    assert [(row["shape"], row["prompt_tokens"], row["method"], row["cache"]) for row in rows] == [
        (shape, length, *pair) for shape in ("small", "tiny") for length in ("96", "160") for pair in wanted
    ]
    assert len({key_of(row) for row in rows}) == len(rows)


def test_rows_say_what_is_not_the_real_model(rows):
    for row in rows:
        assert row["weights"] == "random" if row["shape"] == "small" else len(row["weights"]) == 16
        assert row["layers"] == row["layers_of"] == ("2" if row["shape"] == "small" else "8")
        if row["method"] == "sparsemm":
            own = read("model", "tiny")["head_scores"]
            assert row["head_scores"] == ("synthetic" if row["shape"] == "small" else own)
        assert row["prompt"] == "read"


def test_bytes_are_those_of_the_entries(rows):
    for row in rows:
        entry = 2 * int(row["head_dim"]) * 4 * int(row["kv_heads"]) * int(row["layers"])
        full = row["method"] == "fullkv"
        assert float(row["realised_budget"]) == (int(row["prompt_tokens"]) if full else 40)
        kept = float(row["realised_budget"]) * entry
        assert int(row["kept_bytes"]) == kept
        slack = 0 if row["cache"] == "dynamic" else 3 * entry  # 1 token to warm up, 2 in a round
        assert int(row["slack_bytes"]) == slack
        used = int(row["kv_bytes"]) - slack
        assert kept <= used <= (kept if full else 1.4 * kept)  # padding, and lists of where things are
        assert int(row["floor_bytes"]) - kept <= int(row["weight_bytes"])


def test_numbers_are_finite_and_follow_from_each_other(rows):
    for row in rows:
        assert not row["failed"]
        empty = (
            {"compress_s", "compress_share", "decoded_by", "budget"} if row["method"] == "fullkv" else set()
        )
        for name in COLUMNS:
            if name not in TEXTS and not (name in empty and row[name] == ""):
                assert 0 <= float(row[name]) < 1e15, name
        assert float(row["decode_ms_q1"]) <= float(row["decode_ms"]) <= float(row["decode_ms_q3"])
        assert 0 < float(row["ratio_min"]) <= float(row["ratio"]) <= float(row["ratio_max"])
        if row["method"] != "fullkv":
            assert 0 < float(row["compress_s"]) < float(row["prefill_s"])
            assert 0 < float(row["compress_share"]) < 1
        floor = float(row["floor_bytes"]) / float(row["bandwidth_gb_s"]) / 1e6
        assert float(row["floor_ms"]) == pytest.approx(floor, 1e-3)
        assert float(row["times_floor"]) == pytest.approx(float(row["decode_ms"]) / floor, 1e-3)
    for start in range(0, len(rows), 4):  # the fastest FullKV is what ratios are of
        full = rows[start : start + 2]
        best = min(full, key=lambda row: float(row["decode_ms"]))
        assert {best["ratio_min"], best["ratio_max"]} == {"1"}
        assert max(float(row["prefill_ratio"]) for row in full) == 1


def test_the_record_says_by_which_command_on_what_and_with_what(folder):
    record = json.loads((folder / "decode.json").read_text())
    assert "random weights" in record["shapes"]
    assert "cut" in record["shapes"]
    [(began, made)] = record["runs"].items()
    assert began.endswith("+00:00")
    assert made["command"].startswith("python -m sparsemm.efficiency decode shapes=[small,checkpoint] ")
    assert made["machine"]["threads"] >= 1
    assert {"python", "torch", "transformers", "sparsemm"} <= set(made["versions"])
    assert "git_commit" in made
    assert sorted(path.name for path in folder.iterdir()) == ["decode.csv", "decode.json"]


def test_the_commands_line_gives_the_same_configuration():
    config = configuration(["decode", *CUT, "decoding=[eager]", "budgets=[64,0.5]"])
    words = command_of(config).split()
    assert "batch_sizes=[1,2]" in command_of({**config, "batch_sizes": [1, 2]})
    assert words[:3] == ["python", "-m", "sparsemm.efficiency"]
    assert configuration(words[3:]) == config


def test_contenders_take_turns_and_finished_rows_are_skipped(tmp_path):
    small = ("shapes=[small]", "lengths=[96]")
    first, told = run(tmp_path, *small)
    names = ["fullkv dynamic", "fullkv static", "snapkv 40", "sparsemm 40"]
    turns = [f"small, 1 x 96, round {number}: {name}" for number in (1, 2) for name in names]
    assert told == ["small, 1 x 96: making the model", *turns]
    before = (tmp_path / "decode.csv").read_bytes()
    again, told = run(tmp_path, *small)
    assert told == []
    assert (tmp_path / "decode.csv").read_bytes() == before
    assert [key_of(row) for row in again] == [key_of(row) for row in first]
    # One more method: FullKV runs beside it, since ratios hold within a run, and keeps its old row.
    more, told = run(tmp_path, *small, "methods=[snapkv,adakv]")
    assert told[1:] == [
        f"small, 1 x 96, round {number}: {name}" for number in (1, 2) for name in (*names[:2], "adakv 40")
    ]
    assert [row["method"] for row in more] == ["fullkv", "fullkv", "snapkv", "adakv"]
    assert table(tmp_path)[:4] == [
        dict(zip(COLUMNS, line.split(","), strict=True)) for line in before.decode().splitlines()[1:]
    ]
    assert len(json.loads((tmp_path / "decode.json").read_text())["runs"]) in (1, 2)  # within one second: one


def test_interrupted_it_keeps_whole_groups_and_goes_on(tmp_path, monkeypatch, capsys):
    once = decode_bench.Bench.run
    calls: list[int] = []

    def interrupted(self: Any, rival: Any, found: Any) -> None:
        calls.append(self.plan.prompt_tokens)
        if calls.count(160) == 3:
            raise KeyboardInterrupt
        once(self, rival, found)

    arguments = ["decode", *CUT, "shapes=[small]", f"output={tmp_path}"]
    monkeypatch.setattr(decode_bench.Bench, "run", interrupted)
    assert main(arguments) == 130
    assert "the same command goes on" in capsys.readouterr().err.splitlines()[-1]
    assert [row["prompt_tokens"] for row in table(tmp_path)] == ["96"] * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decode.csv", "decode.json"]
    monkeypatch.setattr(decode_bench.Bench, "run", once)
    assert main(arguments) == 0
    assert [row["prompt_tokens"] for row in table(tmp_path)] == ["96"] * 4 + ["160"] * 4


def test_a_drawn_prompt_holds_what_a_read_one_holds(tmp_path, rows):
    drawn, _ = run(tmp_path, "prompt=drawn", "batch_sizes=[1,2]")
    columns = ("kept_bytes", "kv_bytes", "slack_bytes", "realised_budget", "floor_bytes")
    for row, other in zip([row for row in drawn if row["batch_size"] == 1], rows, strict=True):
        assert row["prompt"] == "drawn"
        assert "prefill_s" not in row
        assert row["compress_s"] is None if row["method"] == "fullkv" else row["compress_s"] > 0
        assert [row[name] for name in columns] == [float(other[name]) for name in columns]
    for one, two in zip(
        *([row for row in drawn if row["batch_size"] == size] for size in (1, 2)), strict=True
    ):
        assert two["kept_bytes"] == 2 * one["kept_bytes"]
        assert two["floor_bytes"] - two["kept_bytes"] == one["floor_bytes"] - one["kept_bytes"]


def test_what_does_not_fit_says_so_and_the_rest_goes_on(tmp_path, monkeypatch):
    once = decode_bench.Bench.run

    def full(self: Any, rival: Any, found: Any) -> None:
        if rival.cache != "ragged":
            raise torch.OutOfMemoryError("no")
        once(self, rival, found)

    monkeypatch.setattr(decode_bench.Bench, "run", full)
    rows, _ = run(tmp_path, "shapes=[small]", "lengths=[96]")
    assert [row["failed"] for row in rows] == ["out of memory"] * 2 + [None] * 2
    assert all("ratio" not in row for row in rows)
    assert all(row["times_floor"] > 0 for row in rows[2:])


def test_a_checkpoint_in_a_folder_is_measured(tmp_path):
    config: Any = SHAPES["small"].config(1, 256)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    options = ["shapes=[checkpoint]", "model.head_scores=null", "model.window=32", "dtype=bfloat16"]
    rows, _ = run(tmp_path, *options, f"model.pretrained={tmp_path / 'model'}", "lengths=[96]")
    assert {row["dtype"] for row in rows} == {"bfloat16"}
    assert {row["layers"] for row in rows} == {1}
    assert rows[0]["kept_bytes"] == 96 * 2 * 128 * 2 * 2
    assert rows[-1]["head_scores"] == "synthetic"


def test_kinds_of_decode_steps_are_further_contenders():
    """Where sizes are fixed, FullKV is held in our cache, too: the same kernel, without eviction."""
    methods = methods_of(["snapkv", "sparsemm"], [40], 32, lambda: torch.rand(2, 4))
    labels = [rival.label for rival in contenders(methods, ["eager", "graph", "compiled"])]
    assert labels[:2] == ["fullkv dynamic", "fullkv static"]
    assert labels[2:4] == ["fullkv static graph", "fullkv static compiled"]
    assert labels[4:6] == ["fullkv ragged graph", "fullkv ragged compiled"]
    assert labels[6:9] == ["snapkv 40", "snapkv 40 graph", "snapkv 40 compiled"]
    assert [rival.label for rival in contenders(methods[:1], ["eager"])] == [*labels[:2], "snapkv 40"]


def test_compiled_forms_are_measured(tmp_path):
    torch._dynamo.utils.counters.clear()
    rows, _ = run(
        tmp_path,
        "shapes=[small]",
        "layers=1",
        "lengths=[96]",
        "decoding=[eager,graph,compiled]",
        "backend=padded",
        "warm_up=2",
        "methods=[snapkv]",
    )
    assert [(row["method"], row["cache"], row["decoding"]) for row in rows] == [
        ("fullkv", "dynamic", "eager"),
        *(("fullkv", "static", decoding) for decoding in ("eager", "graph", "compiled")),
        *(("fullkv", "ragged", decoding) for decoding in ("graph", "compiled")),
        *(("snapkv", "ragged", decoding) for decoding in ("eager", "graph", "compiled")),
    ]
    assert not any(row["failed"] for row in rows)
    assert all(row["ratio"] > 0 and row["decode_ms"] > 0 for row in rows)
    # A graph for each, which the second round's new cache meets again.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    assert all(row["ratio"] > 0 and row["ratio_stock"] > 0 for row in rows)
    plain, _, compiled = rows[6:]
    assert compiled["realised_budget"] == plain["realised_budget"] == 40
    assert compiled["slack_bytes"] == plain["slack_bytes"]
    assert compiled["decoded_by"] == "padded"


def test_what_cannot_be_compiled_says_so_and_the_rest_goes_on(tmp_path, monkeypatch):
    def broken(*given: Any) -> Any:
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(LlamaForCausalLM, "get_compiled_call", broken)
    rows, _ = run(tmp_path, "shapes=[small]", "lengths=[96]", "methods=[snapkv]", "decoding=[eager,compiled]")
    failed = "not compiled: no compiler here"
    assert [row["failed"] for row in rows] == [None, None, failed, failed, None, failed]
    assert all("ratio" in row or row["failed"] for row in rows)
    # Only there: elsewhere it is a mistake of the program.
    monkeypatch.setattr(decode_bench, "next_token", broken)
    with pytest.raises(RuntimeError, match="no compiler here"):
        run(tmp_path / "other", "shapes=[small]", "lengths=[96]", "methods=[snapkv]")


def test_the_clock_and_the_peaks_read_what_happens():
    device = torch.device("cpu")
    clock, peak = Clock(device), Peak(device)
    peak.begin()
    start = clock.mark()
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    end = clock.mark()
    del block
    assert clock.seconds(start, end) > 0
    most = peak.bytes()
    assert most is None or 60e6 < most < 200e6
    assert 1e8 < copy_bandwidth(device) < 1e13


WRONG = [
    (["lengths=[0]"], "lengths must be a list of positive integers, got [0]"),
    (["lengths=512"], "lengths must be a list of positive integers, got 512"),
    (["lengths=[32]"], "lengths must be above the window (32), got 32"),
    (["batch_sizes=[]"], "batch_sizes must be a list of positive integers"),
    (["shapes=[llava_vicuna]"], "unknown shape 'llava_vicuna'"),
    (["shapes=[]"], "at least one shape"),
    (["layers=3"], "small has 2 layers, got layers=3"),
    (["layers=1", "shapes=[checkpoint]"], "a checkpoint is measured whole"),
    (["methods=[snapkw]"], "unknown method 'snapkw'; did you mean snapkv?"),
    (["budgets=[16]"], "budget 16 is smaller than the window"),
    (["prompt=red"], "unknown prompt 'red'; did you mean read"),
    (["new_tokens=5"], "new_tokens must be a multiple of rounds (2), got 5"),
    (["rounds=0"], "rounds must be a positive integer, got 0"),
    (["dtype=float64"], "unknown dtype 'float64'"),
    (["decoding=eager"], "decoding must be null or a list of eager, graph, compiled, got 'eager'"),
    (["decoding=[egar]"], "unknown decoding 'egar'; did you mean eager?"),
    (["backend=padd"], "unknown backend 'padd'; did you mean padded?"),
    (["device=nowhere"], "device 'nowhere' cannot be used"),
    (["shapes=[llava_next_vicuna_7b]", "lengths=[500000]"], "reduce layers, lengths or batch_sizes"),
    (["lenghts=[96]"], "no option 'lenghts'; did you mean lengths"),
    (["model.pretraind=x"], "no option 'model.pretraind'; did you mean pretrained"),
]


@pytest.mark.parametrize(("options", "message"), WRONG, ids=[" ".join(options) for options, _ in WRONG])
def test_wrong_options_give_one_line_and_leave_nothing(tmp_path, capsys, options, message):
    output = tmp_path / "out"
    assert main(["decode", *CUT, "shapes=[small]", *options, f"output={output}"]) == 2
    shown = capsys.readouterr().err.splitlines()
    assert message in shown[-1]
    assert len(shown) == 1
    assert not output.exists()


def test_another_table_is_not_overwritten(tmp_path):
    (tmp_path / "decode.csv").write_text("shape,seconds\nsmall,1\n")
    with pytest.raises(InputError, match="has other columns than this version's"):
        run(tmp_path, "shapes=[small]")
    assert (tmp_path / "decode.csv").read_text() == "shape,seconds\nsmall,1\n"


def test_identity_is_part_of_the_columns():
    assert list(COLUMNS)[: len(IDENTITY)] == list(IDENTITY)


def test_it_runs_where_little_is_installed(tmp_path):
    """Torch, transformers, numpy and yaml, and what those need themselves: nothing of what sweeps need."""
    program = f"""
        import sys
        from importlib.machinery import PathFinder
        class Bare(PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                if name.split(".")[0] not in {{
                    "hydra", "omegaconf", "pandas", "datasets", "lmms_eval", "rich", "accelerate",
                    "matplotlib", "torchvision", "scipy", "rapidfuzz", "PIL", "pyarrow",
                }}:
                    return PathFinder.find_spec(name, path, target)
        sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
        from sparsemm.efficiency.__main__ import main
        sys.exit(main({["decode", *CUT, "lengths=[96]", f"output={tmp_path}"]!r}))
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip() == str(tmp_path / "decode.csv")
    assert len(table(tmp_path)) == 8
