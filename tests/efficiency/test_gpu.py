"""The GPU's programme, tried on the CPU with tiny sizes of the same steps."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sparsemm import efficiency
from sparsemm.configs import InputError
from sparsemm.efficiency.__main__ import configuration, main
from sparsemm.efficiency.decode_table import COLUMNS
from sparsemm.efficiency.gpu import kernel, programme, tokens
from sparsemm.efficiency.gpu.steps import CUT, FULL, Found, Step
from tests.cache.triton_here import in_the_interpreter

NAMES = [
    *("machine", "kernel", "rates", "tokens", "small at 96", "small at 64", "fan-out", "batches"),
    "small at 96, compiled",
]


def run(output: Path, *options: str) -> tuple[efficiency.Measured, list[str]]:
    told: list[str] = []
    config = configuration(["gpu", "cut=true", "device=cpu", *options, f"output={output}"])
    return efficiency.run(config, lambda done, total, text: told.append(text)), told


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "gpu.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("gpu")
    assert main(["gpu", "cut=true", "device=cpu", "max_seconds=4000", f"output={output}"]) == 0
    return output


@in_the_interpreter
def test_every_step_is_done_and_written(folder: Path) -> None:
    found = record(folder)
    assert list(found["steps"]) == NAMES
    assert not any("failed" in step for step in found["steps"].values())
    steps = found["steps"]
    assert {"copy_gb_s", "matmul_tflops", "torch", "device"} <= set(steps["machine"])
    assert steps["kernel"]["cases"] == 36
    assert 0 < steps["kernel"]["worst_error_float32"] < 1e-5
    assert steps["tokens"]["answers"] == 2 * 3 + 2
    assert steps["fan-out"]["cells"] == 6
    assert steps["fan-out"]["over_fullkv"] > 0
    assert sorted(path.name for path in folder.iterdir()) == ["decode.csv", "gpu.json", "kernel.csv"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2**20
    with (folder / "kernel.csv").open(newline="") as file:
        rates = list(csv.DictReader(file))
    assert [row["kept"] for row in rates] == ["all", "even", "by head score"]
    assert list(rates[0]) == list(kernel.COLUMNS)
    with (folder / "decode.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    wanted = {("96", "1"), ("64", "1"), ("64", "2")}
    assert {(row["prompt_tokens"], row["batch_size"]) for row in rows} == wanted
    assert not any(row["failed"] for row in rows)
    assert {row["decoding"] for row in rows} == {"eager", "graph", "compiled"}


@in_the_interpreter
def test_it_goes_on_with_what_failed_and_measures_nothing_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    before = (tmp_path / "decode.csv").read_bytes()
    measured, told = run(tmp_path)
    assert (told, measured.unfinished) == ([], ())
    found = record(tmp_path)
    for name in ("kernel", "tokens"):
        del found["steps"][name]
    (tmp_path / "gpu.json").write_text(json.dumps(found))
    real = tokens.compare
    monkeypatch.setattr(tokens, "compare", lambda *given: (_ for _ in ()).throw(RuntimeError("two\nlines")))
    measured, told = run(tmp_path)
    assert told == ["kernel", "tokens"]
    assert measured.unfinished == ("tokens: RuntimeError: two lines",)
    monkeypatch.setattr(tokens, "compare", real)
    measured, told = run(tmp_path, "max_seconds=1")
    assert told == []
    assert measured.unfinished == ("tokens: left out: it needs about 30 s, 1 were left",)
    measured, told = run(tmp_path)
    assert (told, measured.unfinished) == (["tokens"], ())
    assert len(record(tmp_path)["runs"]) >= 1
    assert (tmp_path / "decode.csv").read_bytes() == before


def test_rows_of_a_step_that_was_killed_before_it_was_recorded_are_replaced(tmp_path: Path) -> None:
    rows = [{"heads": 32, "kv_heads": 8, "kept": kept, "layers": 2, "gb_s": 1.5} for kept in ("all", "even")]
    step = Step("rates", 1, "", lambda report: Found({}, "kernel.csv", tuple(rows)))
    state: dict[str, Any] = {"schema_version": 1, "cut": True, "runs": {}, "steps": {}, "tables": {}}
    for gb_s in (1.5, 2.5):  # as text, from a file, and as numbers
        rows[0]["gb_s"] = gb_s
        programme._take(step, state, tmp_path, "now", print)
        with (tmp_path / "kernel.csv").open(newline="") as file:
            state["tables"]["kernel.csv"] = list(csv.DictReader(file))
    assert [row["gb_s"] for row in state["tables"]["kernel.csv"]] == ["2.5", "1.5"]


@in_the_interpreter
def test_a_kernel_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from sparsemm.efficiency.gpu import obvious

    real = obvious.ragged_attention
    monkeypatch.setattr(obvious, "ragged_attention", lambda *given: real(*given) * 1.01)
    with pytest.raises(
        RuntimeError, match=r"the kernel is wrong: float32, lengths \(1, 70\), group 3, 0 app"
    ):
        kernel.check(torch.device("cpu"), CUT.kernel)


def test_a_plan_lists_the_steps_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu", "plan=true", f"output={tmp_path / 'out'}"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().err.splitlines()]
    assert lines[0][:3] == ["step", "about s", "state"]
    assert len(lines) == 1 + 4 + 2 * len(FULL.shapes) + 3
    assert all(float(line[1]) > 0 and line[2] == "to do" for line in lines[1:])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["device=cpu"], "there is no GPU: cut=true tries the programme on a CPU, plan=true lists it"),
        (["max_seconds=0"], "max_seconds must be a positive number, got 0"),
        (["plan=1"], "plan must be true or false, got 1"),
        (["max_second=1"], "no option 'max_second'; did you mean max_seconds"),
    ],
)
def test_wrong_options_are_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gpu", *options, f"output={tmp_path / 'out'}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["[]", "{", '{"schema_version": 9, "runs": {}, "steps": {}}'])
def test_another_file_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / programme.RECORD
    path.write_text(text)
    with pytest.raises(InputError, match="name another folder"):
        run(tmp_path)
    assert path.read_text() == text


def test_a_cut_run_does_not_count_as_the_whole_one(tmp_path: Path) -> None:
    path = tmp_path / programme.RECORD
    path.write_text('{"schema_version": 1, "runs": {}, "steps": {}}')  # of whole runs
    with pytest.raises(InputError, match="is of cut=false: name another folder"):
        run(tmp_path)
