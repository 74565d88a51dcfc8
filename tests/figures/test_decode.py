import numpy as np
import pandas as pd
import pytest
from matplotlib.lines import Line2D

from sparsemm.efficiency.decode_table import COLUMNS
from sparsemm.figures import decode_vs_context, save
from sparsemm.figures.decode import PUBLISHED_GB, PUBLISHED_MS, decode_figures

SHAPES = {"llava_next_vicuna_7b": 32, "qwen2_vl_7b": 28}


def made_up(device: str, layers: int | None = None) -> pd.DataFrame:
    """A table of two shapes at three lengths; ``static`` is FullKV's faster form."""
    rows = []
    for shape, of in SHAPES.items():
        for length in (2048, 8192, 32768):
            for method, cache, cost in (
                ("fullkv", "dynamic", 9),
                ("fullkv", "static", 4),
                ("sparsemm", "ragged", 1),
            ):
                ms = 20 + cost * length / 2048
                rows.append(
                    {
                        "shape": shape,
                        "weights": "random",
                        "layers": layers or of,
                        "layers_of": of,
                        "prompt_tokens": length,
                        "batch_size": 1,
                        "method": method,
                        "budget": None if method == "fullkv" else 256,
                        "cache": cache,
                        "dtype": "bfloat16",
                        "device": device,
                        "decode_ms": ms,
                        "decode_ms_q1": ms - 1,
                        "decode_ms_q3": ms + 1,
                        "weight_bytes": 13e9,
                        "kv_bytes": cost * length * 1e3,
                        "peak_prefill_bytes": 2e9,
                        "peak_decode_bytes": cost * length * 1e5,
                    }
                )
    return pd.DataFrame(rows).reindex(columns=list(COLUMNS))


def points(line: Line2D) -> list[float]:
    return np.asarray(line.get_ydata(), dtype=float).tolist()


def test_the_fastest_form_is_drawn_and_the_published_points_stand_beside_it():
    figure = decode_vs_context(made_up("NVIDIA H100"), published=True)
    latency, other, memory, _ = figure.axes
    full, ours, *stars = latency.lines
    assert points(full) == pytest.approx([24, 36, 84])  # the static cache's
    assert points(ours) == pytest.approx([21, 24, 36])
    assert [points(star)[0] for star in stars] == list(PUBLISHED_MS["llava_next_vicuna_7b"].values())
    assert {np.asarray(star.get_xdata()).item() for star in stars} == {32768}
    assert [points(line)[0] for line in memory.lines[2:]] == list(
        PUBLISHED_GB["llava_next_vicuna_7b"].values()
    )
    assert points(memory.lines[0]) == pytest.approx([15, 16.2768, 26.1072])  # weights and larger peak
    assert latency.get_title() == "llava_next_vicuna_7b\nbfloat16"
    assert len(other.lines) == 4


def test_one_form_is_drawn_over_all_lengths_and_stock_fullkv_beside_ours():
    """A form that is faster, but was not measured everywhere, would look like a change with length."""
    table = made_up("NVIDIA H100")
    table["decoding"] = "graph"
    at_one = table[table["prompt_tokens"] == 32768].assign(decoding="compiled", decode_ms=1.0)
    full = table[table["cache"] == "static"].assign(cache="ragged")
    full["decode_ms"] -= 2
    figure = decode_vs_context(pd.concat([table, at_one, full]), published=False)
    stock, ours, method = figure.axes[0].lines
    assert points(stock) == pytest.approx([24, 36, 84])
    assert points(ours) == pytest.approx([22, 34, 82])
    assert points(method) == pytest.approx([21, 24, 36])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["FullKV", "FullKV, transformers' cache", "SparseMM"]


def test_models_that_were_cut_or_ran_on_a_cpu_have_no_published_points():
    for table, name in (
        (made_up("cpu"), "decode_cpu_256"),
        (made_up("NVIDIA H100", 2), "decode_cut_nvidia_h100_256"),
    ):
        [(found, figure)] = decode_figures(table).items()
        assert found == name
        assert all(len(axis.lines) == 2 for axis in figure.axes)
        assert figure.axes[2].get_ylabel() == "KV allocated (MB)"
        cut = "\n2 of 32 layers" if "cut" in name else ""
        assert figure.axes[0].get_title() == f"llava_next_vicuna_7b{cut}\nbfloat16"


def test_rows_that_failed_and_larger_batches_are_left_out():
    table = made_up("cpu")
    more = table.assign(batch_size=4)
    failed = table.assign(failed="out of memory", budget=512)
    assert list(decode_figures(pd.concat([table, more, failed]))) == ["decode_cpu_256"]


def test_a_folder_with_only_a_decode_table_is_drawn(tmp_path):
    both = pd.concat([made_up("cpu"), made_up("NVIDIA H100", 2)])
    both.to_csv(tmp_path / "decode.csv", index=False)
    written = save(tmp_path)
    names = ["decode_cut_nvidia_h100_256", "decode_cpu_256"]
    assert [path.name for path in written] == [f"{name}.{kind}" for name in names for kind in ("png", "pdf")]
    assert all(path.stat().st_size > 5000 for path in written)


def test_a_single_length_is_no_curve(tmp_path):
    short = made_up("cpu")
    short = short[(short["shape"] != "qwen2_vl_7b") | (short["prompt_tokens"] == 2048)]
    [figure] = decode_figures(short).values()
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["llava_next_vicuna_7b\nbfloat16"]
    one = short[short["prompt_tokens"] == 2048]
    one.to_csv(tmp_path / "decode.csv", index=False)
    with pytest.raises(ValueError, match="no model was measured at two prompt lengths"):
        save(tmp_path, say=lambda line: None)
