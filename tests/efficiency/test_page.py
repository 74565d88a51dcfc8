"""The page about efficiency: its commands are ones that the benchmarks take, its columns the tables'."""

import csv
import json
import re
from pathlib import Path

from sparsemm.efficiency.__main__ import configuration
from sparsemm.efficiency.decode_options import Options
from sparsemm.efficiency.decode_table import COLUMNS
from sparsemm.efficiency.gpu import kernel
from sparsemm.efficiency.gpu.steps import FULL

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "efficiency.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDER = ROOT / "results" / "efficiency" / "gpu"
ROWS = list(csv.DictReader((FOLDER / "decode.csv").open(newline="")))
STEPS = json.loads((FOLDER / "gpu.json").read_text())["steps"]


def table(text: str, start: str) -> list[list[str]]:
    """Cells of the rows below a table's heading."""
    lines = text[text.index(start) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def row(
    shape: str, tokens: int, method: str, cache: str, decoding: str = "graph", batch: int = 1
) -> dict[str, str]:
    wanted = (shape, str(tokens), method, cache, decoding, str(batch))
    names = ("shape", "prompt_tokens", "method", "cache", "decoding", "batch_size")
    [found] = [one for one in ROWS if tuple(one[name] for name in names) == wanted]
    return found


def rate(found: dict[str, str]) -> str:
    """Tokens a second."""
    return f"{int(found['batch_size']) / float(found['decode_ms']) * 1e3:,.0f}"


def test_its_commands_are_right() -> None:
    commands = re.findall(r"^python -m sparsemm\.efficiency (\w+ [^#\n]+)", PAGE, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        config = configuration(command.replace("FOLDER", "x").split())
        if config["benchmark"] == "decode":
            assert Options(**{name: config[name] for name in Options.__dataclass_fields__}).new_tokens >= 64


def test_it_explains_every_column() -> None:
    for start, columns in (("| column | meaning |", COLUMNS), ("| column of `kernel.csv` |", kernel.COLUMNS)):
        assert table(PAGE, start) == [[f"`{name}`", meaning] for name, meaning in columns.items()]


def test_every_step_of_the_committed_run_was_done() -> None:
    assert len(STEPS) == 4 + 2 * len(FULL.shapes) + 3
    assert not any("failed" in step for step in STEPS.values())
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 2**20


def test_the_tables_of_the_gpu_are_those_of_the_files() -> None:
    start = "| one H100, bfloat16, prompt 32K, budget 256: ms a token |"
    assert table(README, start) == table(PAGE, start)
    more = table(PAGE, "| SparseMM, budget 256 | of the floor at 32K |")
    for shape, said, further in zip(FULL.shapes, table(README, start), more, strict=True):
        stock, own = (row(shape, 32768, "fullkv", cache) for cache in ("static", "ragged"))
        ours, short = (row(shape, tokens, "sparsemm", "ragged") for tokens in (32768, 2048))
        whole = row(shape, 32768, "fullkv", "dynamic", "eager")
        share = int(ours["kv_bytes"]) / int(whole["kv_bytes"])
        assert said[1:] == [
            *(f"{float(one['decode_ms']):.1f}" for one in (stock, own, ours)),
            *(f"{float(ours[name]):.2f}" for name in ("ratio_stock", "ratio")),
            f"{share:.1%}",
        ]
        gigabytes = (
            ", ".join(f"{int(one[name]) / 1e9:.2f}" for one in (stock, ours))
            for name in ("peak_decode_bytes", "peak_prefill_bytes")
        )
        assert further[1:] == [
            f"{float(ours['times_floor']):.2f}",
            ", ".join(f"{float(one['decode_ms']):.2f}" for one in (short, ours)),
            *gigabytes,
            ", ".join(f"{float(one['prefill_s']):.2f}" for one in (stock, ours)),
            f"{float(ours['compress_share']):.1%}",
        ]


def test_the_sentences_of_the_gpu_are_those_of_the_files() -> None:
    text = " ".join(PAGE.split())
    vicuna = FULL.shapes[0]
    full, ours = (
        row(vicuna, 32768, *pair, "compiled") for pair in (("fullkv", "static"), ("sparsemm", "ragged"))
    )
    times = f"FullKV takes {float(full['decode_ms']):.1f} ms and SparseMM {float(ours['decode_ms']):.1f} ms"
    ratios = f"{float(ours['ratio']):.2f} times as fast, {float(ours['times_floor']):.2f} times the floor"
    assert f"{times}: {ratios}" in text
    rates = {batch: rate(row(vicuna, 8192, "sparsemm", "ragged", batch=batch)) for batch in (4, 16, 48)}
    assert f"SparseMM {rates[4]} at 4, {rates[16]} at 16, {rates[48]} at 48" in text
    alone = max(
        4e3 / float(row(vicuna, 8192, "fullkv", cache, batch=4)["decode_ms"])
        for cache in ("static", "ragged")
    )
    assert f"FullKV decodes {alone:.0f} tokens a second in a batch of 4" in text
    assert row(vicuna, 8192, "fullkv", "static", batch=12)["failed"] == "out of memory"
    assert f"{STEPS['fan-out']['over_fullkv']:.2f} times one FullKV run by `generate`" in text
    assert f"float64 in {STEPS['kernel']['cases']} cases" in text
    assert f"in all {STEPS['tokens']['answers']} answers" in text
    rates_of = list(csv.DictReader((FOLDER / "kernel.csv").open(newline="")))
    read = [f"{float(one['share_of_copy']):.0%}" for one in rates_of if one["kept"] == "all"]
    assert f"reads {read[0]} (32 KV heads), {read[1]} (8) and {read[2]} (4)" in text
    uneven = [f"{float(one['over_even']):.2f}" for one in rates_of if one["over_even"]]
    assert f"it takes {uneven[0]}, {uneven[1]} and {uneven[2]} times as long as even" in text
