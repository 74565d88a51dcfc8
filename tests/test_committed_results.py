"""The committed results are what the code measures today, and README and docs say what their files say."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import sparsemm
from sparsemm.documents import VERSION
from sparsemm.evaluation.allocations import load_allocations
from sparsemm.evaluation.planning import plan
from sparsemm.heads import HeadScores
from sparsemm.heads.concentration import rank_agreement, top_share
from sparsemm.tiny.reading import Reading
from tests.composing import composed

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
FOLDER = RESULTS / "tiny"
TASKS = ("tiny_docvqa", "tiny_ocr", "tiny_chartqa", "tiny_textvqa")
NAMES = {
    "SparseMM": "sparsemm",
    "SnapKV": "snapkv",
    "AdaKV": "adakv",
    "PyramidKV": "pyramidkv",
    "StreamingLLM": "streaming_llm",
    "Random": "random",
}
README = "\n\n".join(
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/measured.md", "docs/efficiency.md")
)
FLOWING = " ".join(README.split())


def short(value: float) -> str:
    """A score as the README prints it: .977, 1.000."""
    return f"{value:.3f}".removeprefix("0")


def rows_of_table(title: str) -> list[list[str]]:
    """Cells of the rows of the table whose head begins with `title`."""
    lines = README[README.index(f"| {title} |") :].split("\n\n")[0].splitlines()
    return [[part.strip() for part in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


@pytest.fixture(scope="module")
def cells() -> pd.DataFrame:
    return sparsemm.load_results(FOLDER)


@pytest.fixture(scope="module")
def comparisons() -> pd.DataFrame:
    return pd.read_csv(FOLDER / "comparisons.csv")


def test_every_cell_of_the_experiment_is_there():
    """By identity: checkpoint, tasks, method parameters, budgets and generation settings are those of now."""
    planned = {cell.id for cell in plan(composed("sweep", "experiment=tiny"))}
    samples = pd.read_parquet(FOLDER / "samples.parquet", columns=["cell"])
    assert planned == set(samples["cell"])
    assert (samples["cell"].value_counts() == 500).all()


def test_grid_is_complete_and_budgets_are_realised(cells):
    assert set(cells["task"]) == set(TASKS)
    assert len(cells) == len(set(cells["task"])) * 171
    assert (cells["n"] == 500).all()
    assert (cells["n_failed"] == 0).all()
    exact = cells[
        cells["budget"].notna() & (cells["n_uncompressed"] == 0) & (cells["rounding"] != "released")
    ]
    assert (exact["realised_budget"] - exact["budget"]).abs().max() < 1e-9
    assert (cells.loc[cells["budget"] <= 128, "n_uncompressed"] == 0).all()


def test_budgets_hurt_and_a_budget_above_the_prompt_is_fullkv(cells):
    for _, rows in cells.groupby("task"):
        full = rows.loc[rows["method"] == "fullkv", "score"].item()
        window = rows[rows["budget"] == 8]
        above = rows[rows["budget"] == 320]
        assert (window["score"] < full - 0.05).all()
        assert (above["score"] == full).all()
        assert (above["agreement_full"] == 1).all()


def test_readme_table_is_the_file(cells):
    (head, *rows) = rows_of_table("score at budget")
    budgets = [int(number) for number in head[1:]]
    scores = cells.groupby(["task", "method", "budget"], dropna=False)["score"].mean()
    full = cells[cells["method"] == "fullkv"].set_index("task")["score"]
    seen: list[tuple[str, str]] = []
    task = ""
    for row in rows:
        if title := re.search(r"`(tiny_\w+)`\*\* \(FullKV ([\d.]+)\)", row[0]):
            task = title[1]
            assert title[2] == short(full[task])
        else:
            measured = [short(scores[task, NAMES[row[0]], budget]) for budget in budgets]
            assert row[1:] == measured, row
            seen.append((task, row[0]))
    assert seen == [(task, name) for task in TASKS for name in NAMES]


def test_readme_says_where_the_gain_comes_from(comparisons):
    """Paired differences with their intervals, mean over the budgets that evict."""
    (_, *rows) = rows_of_table("mean gain in score")
    pairs = (
        ("sparsemm", "snapkv"),
        ("sparsemm_layer_mean", "sparsemm_flat"),
        ("sparsemm", "sparsemm_layer_mean"),
        ("sparsemm", "sparsemm_shuffled"),
    )
    overall = comparisons[comparisons["budget"].isna()].set_index(["task", "method", "reference"])
    assert [row[0].strip("`") for row in rows] == list(TASKS)
    for row in rows:
        for (method, reference), said in zip(pairs, row[1:], strict=True):
            found = overall.loc[row[0].strip("`"), method, reference]
            assert found["budgets"] == 9
            assert said == f"{found['difference']:+.3f} [{found['ci_low']:+.3f}, {found['ci_high']:+.3f}]"


def test_readme_says_how_large_the_layers_part_is(comparisons, cells):
    overall = comparisons[comparisons["budget"].isna()].set_index(["task", "method", "reference"])
    gain = overall["difference"]
    for task, words in (
        ("tiny_docvqa", "keeps {} % of it on questions to documents"),
        ("tiny_chartqa", "{} % on charts"),
        ("tiny_ocr", "{} % on transcription"),
        ("tiny_textvqa", "{} % on signs"),
    ):
        layers = gain[task, "sparsemm_layer_mean", "sparsemm_flat"]
        assert words.format(round(100 * layers / gain[task, "sparsemm", "sparsemm_flat"])) in FLOWING
        assert overall.loc[(task, "sparsemm", "sparsemm_layer_mean"), "ci_low"] > 0
    scores = cells.groupby(["method", "task", "budget"])["score"].mean()
    between = scores["sparsemm_shuffled"] - scores["snapkv"]
    assert (
        between[between.index.get_level_values("budget").isin((12, 16, 24, 32, 48, 64, 96, 128))] < 0
    ).all()


def test_flat_scores_are_snapkv(cells):
    """The control that the gain is measured from keeps what SnapKV keeps, answer by answer."""
    scores = cells.set_index(["task", "method", "budget"])["score"]
    flat, snapkv = (scores.xs(name, level="method") for name in ("sparsemm_flat", "snapkv"))
    pd.testing.assert_series_equal(flat, snapkv)


def test_head_scores_and_their_statistics_are_the_readmes():
    scores = HeadScores.load(RESULTS / "head_scores" / "tiny.safetensors")
    assert scores.card["n"] == len(scores.hits) == 1000
    shares = pd.read_csv(RESULTS / "head_scores" / "tiny.top_share.csv")
    pd.testing.assert_frame_equal(shares, top_share(scores).round(6))
    agreement = pd.read_csv(RESULTS / "head_scores" / "tiny.rank_agreement.csv")
    pd.testing.assert_frame_equal(agreement, rank_agreement(scores).round(6))
    for heads in (3, 6, 16):
        row = shares.set_index("heads").loc[heads]
        said = f"{row['score_share']:.1%} [{row['ci_low']:.1%}, {row['ci_high']:.1%}]"
        assert said in FLOWING
    last_two = scores.scores[-2:].sum() / scores.scores.sum()
    assert f"the last two of eight layers {last_two:.0%}".replace("%", " %") in FLOWING
    hundred = agreement[(agreement["images"] == 100)].set_index("against")
    for against in ("all", "others"):
        row = hundred.loc[against]
        assert f"{row['rank_correlation']:.4f} [{row['low']:.4f}, {row['high']:.4f}]" in FLOWING


@pytest.fixture(scope="module")
def readings() -> pd.DataFrame:
    return pd.read_csv(RESULTS / "reader" / "readings.csv")


def test_the_reader_was_measured_on_the_pages_of_now(readings):
    facts = json.loads((RESULTS / "reader" / "run.json").read_text(encoding="utf-8"))
    assert facts["documents_version"] == VERSION
    card = json.loads((ROOT / "sparsemm/tiny/checkpoint/training.json").read_text(encoding="utf-8"))
    of_card = pd.DataFrame([Reading(**row).__dict__ for row in card["readings"]]).round(5)
    pd.testing.assert_frame_equal(readings, of_card, check_dtype=False)


def test_readme_says_how_well_the_model_reads(readings):
    """Means over kinds of pages (transcription) and over questions (look-ups), as the gate counts them."""
    (head, *rows) = rows_of_table("visual tokens")
    assert head[1:] == ["lines found", "character error", "look-up", "look-up, held-out font"]
    for row in rows:
        here = readings[readings["tokens"] == int(row[0])]
        seen, held_out = here[here["font"] == "seen"], here[here["font"] != "seen"]
        ocr = seen[seen["asked"] == "ocr"]
        lookups = [
            (part["exact"] * part["n"]).sum() / part["n"].sum()
            for part in (
                rows[rows["asked"].isin(("value", "key", "total", "cell"))] for rows in (seen, held_out)
            )
        ]
        assert row[1:] == [
            f"{ocr['lines_found'].mean():.1%}",
            f"{ocr['character_error'].mean():.1%}",
            *(f"{share:.1%}" for share in lookups),
        ]
    assert [int(row[0]) for row in rows] == [96, 144, 192, 288]


def test_readme_says_what_fan_out_costs():
    """The table of costs is the file's, and no fanned-out response differed from a run alone."""
    costs = pd.read_csv(RESULTS / "efficiency" / "fanout.csv").set_index(["workload", "measured"])
    assert (costs["differing_documents"].dropna() == 0).all()
    for label, column, digits in (
        ("of FullKV by transformers' `generate`", "ratio_to_generate", 2),
        ("of FullKV by our own loop", "ratio_to_own_loop", 2),
        ("cheaper than 36 separate runs with real eviction, times", "times_cheaper_than_separate", 1),
    ):
        measured = [costs.loc[(workload, "fanout"), column] for workload in ("lookup", "transcription")]
        assert f"| {label} | " + " | ".join(f"{value:.{digits}f}" for value in measured) + " |" in README


def test_readme_says_what_is_left_without_heads():
    """Each fraction's score, means of the draws, and that the cells are those of the experiment of now."""
    folder = RESULTS / "mask_ablation"
    planned = {cell.id for cell in plan(composed("sweep", "experiment=mask_ablation"))}
    assert planned == set(pd.read_parquet(folder / "samples.parquet", columns=["cell"])["cell"])
    cells = sparsemm.load_results(folder)
    assert (cells["n"] == 128).all()
    assert (cells["n_failed"] == 0).all()
    full = cells[cells["ablation"].isna()].set_index("task")["score"]
    scores = cells.groupby(["task", "ablation", "fraction"])["score"].mean()
    fractions = sorted(cells["fraction"].dropna().unique())
    (head, *rows) = rows_of_table("score without heads")
    heads = [int(re.search(r"\d+", number)[0]) for number in head[1:]]  # pyright: ignore[reportOptionalSubscript]
    assert heads == [max(1, round(64 * fraction)) for fraction in fractions]
    for task, pair in zip(TASKS, (rows[number : number + 2] for number in range(0, 8, 2)), strict=True):
        assert pair[0][0] == f"**`{task}`** ({short(full[task])} with all): visual"
        for ablation, row in zip(("mask_visual", "mask_random"), pair, strict=True):
            assert row[1:] == [short(scores[task, ablation, fraction]) for fraction in fractions]


def test_readme_says_what_compression_before_the_question_leaves():
    folder = RESULTS / "query_agnostic"
    planned = {cell.id for cell in plan(composed("sweep", "experiment=query_agnostic"))}
    assert planned == set(pd.read_parquet(folder / "samples.parquet", columns=["cell"])["cell"])
    cells = sparsemm.load_results(folder)
    assert (cells["n"] == 200).all()
    assert (cells["n_failed"] == 0).all()
    budgeted = cells[cells["budget"].notna()]
    assert (budgeted["realised_budget"] - budgeted["budget"]).abs().max() < 1e-9
    full = cells[cells["method"] == "fullkv"].set_index("task")["score"]
    behind = cells[cells["prompt"] == "question_after_compression"]
    scores = behind.groupby(["task", "method", "budget"])["score"].mean()
    (head, *rows) = rows_of_table("question behind compression, at budget")
    names = ("SparseMM", "SnapKV", "AdaKV")
    expected = [
        [
            f"**`{task}`** ({short(full[task])} at FullKV): {name}" if name == "SparseMM" else name,
            *(short(scores[task, NAMES[name], int(budget)]) for budget in head[1:]),
        ]
        for task in TASKS
        for name in names
    ]
    assert rows == expected
    table = pd.read_csv(folder / "comparisons.csv")
    overall = table[table["budget"].isna() & (table["compared"] == "method")]
    gains: Any = overall.set_index(["task", "method", "reference", "prompt"])
    (_, *rows) = rows_of_table("SparseMM over SnapKV, mean over budgets")
    for task, row in zip(TASKS, rows, strict=True):
        said = [f"`{task}`"]
        for prompt in ("image_question", "question_after_compression"):
            found = gains.loc[task, "sparsemm", "snapkv", prompt]
            assert found["budgets"] == 8
            said.append(f"{found['difference']:+.3f} [{found['ci_low']:+.3f}, {found['ci_high']:+.3f}]")
        assert row == said


def test_readme_says_what_decoding_gains_on_the_embedded_model():
    rows: Any = pd.read_csv(RESULTS / "efficiency" / "decode.csv")
    ratio = (
        rows[rows["shape"] == "tiny"]
        .set_index(["batch_size", "prompt_tokens", "method"])["ratio"]
        .sort_index()
    )
    many, one = (
        [ratio[size].loc[name] for name in ("snapkv", "sparsemm")] for size in ((32, 2048), (1, 288))
    )
    assert f"decodes {many[0]:.1f} times (SnapKV) and {many[1]:.1f} times (SparseMM) as fast" in FLOWING
    assert f"({one[0]:.2f} and {one[1]:.2f} times)" in FLOWING
    at_64 = rows[(rows["batch_size"] == 32) & (rows["prompt_tokens"] == 288) & (rows["budget"] == 64)]
    gains = at_64.set_index("method")["ratio"]
    assert (
        f"SnapKV decodes {gains['snapkv']:.2f}, SparseMM {gains['sparsemm']:.2f} and AdaKV, where almost "
        f"every head keeps a number of its own, {gains['adakv']:.2f} times as fast as FullKV"
    ) in FLOWING


def test_readme_says_which_budgets_suffice(cells):
    """The least budget of the grid whose score is 90% of FullKV's; "all": the one that evicts nothing."""
    (head, *rows) = rows_of_table("tokens kept per head")
    scores = cells.groupby(["task", "method", "budget"])["score"].mean()
    full = cells[cells["method"] == "fullkv"].set_index("task")["score"]
    for task, row in zip(TASKS, rows, strict=True):
        assert f"`{task}`" in row[0]
        for name, said in zip(head[1:], row[1:], strict=True):
            of_method = scores[task, NAMES[name]]
            least = min(of_method.index[of_method >= 0.9 * full[task]])
            assert said == ("all" if least == 320 else f"{least:.0f}")


def test_readme_says_what_decoding_gains_on_the_shapes():
    rows: Any = pd.read_csv(RESULTS / "efficiency" / "decode.csv")
    rows = rows[(rows["layers"] == 2) & (rows["prompt_tokens"] == 32768)].set_index(
        ["shape", "method", "cache"]
    )
    (_, *long) = rows_of_table("two CPU cores, float32, budget 256, prompt 32K")
    start = README.index("| | times FullKV's speed |")
    short_table = README[start:].split("\n\n")[0].splitlines()[2:]
    shapes = ("llava_next_vicuna_7b", "llava_next_mistral_7b", "qwen2_vl_7b")
    for shape, row, brief in zip(shapes, long, short_table, strict=True):
        full, ours = rows.loc[(shape, "fullkv", "static")], rows.loc[(shape, "sparsemm", "ragged")]
        assert full["ratio"] == 1
        whole = rows.loc[(shape, "fullkv", "dynamic"), "kv_bytes"]
        assert row[1:] == [
            f"{full['decode_ms']:.1f}",
            f"{ours['decode_ms']:.1f}",
            f"{ours['ratio']:.2f}",
            f"{ours['times_floor']:.2f}",
            f"{ours['kv_bytes'] / 1e6:.1f} MB of {whole / 1e6:,.0f} MB",
        ]
        share = f"{ours['kv_bytes'] / whole:.1%}"
        assert brief.endswith(f"| {ours['ratio']:.2f} | {share} | {ours['times_floor']:.2f} x |")


def test_what_was_allocated_is_what_was_kept():
    """Within 2%, slack aside; the lists of where things are weigh more where a head keeps a dozen entries."""
    rows: Any = pd.read_csv(RESULTS / "efficiency" / "decode.csv")
    rows = rows[rows["cache"] == "ragged"]
    share = (rows["kv_bytes"] - rows["slack_bytes"]) / rows["kept_bytes"]
    assert share.between(1, 1.02).where(rows["budget"] >= 16, share.between(1, 1.025)).all()


def test_the_page_says_what_kvpress_does():
    rows: Any = pd.read_csv(RESULTS / "efficiency" / "kvpress.csv")
    rows = rows[rows["prompt_tokens"] == 8192].set_index(["method", "engine"])
    start = README.index("| | bytes held after the prompt |")
    said = [line.split(" | ")[1:] for line in README[start:].split("\n\n")[0].splitlines()[2:]]
    assert len(said) == len(rows)
    for words, (_, row) in zip(said, rows.iterrows(), strict=True):
        of_full = "1" if row["bytes_of_full"] == 1 else f"{row['bytes_of_full']:.3f}"
        ratio = "1" if row["ratio"] == 1 else f"{row['ratio']:.2f}"
        assert words == [f"{row['kv_bytes'] / 1e6:.1f} MB", of_full, f"{row['decode_ms']:.1f}", f"{ratio} |"]
    ours, theirs = rows.loc[("adakv", "sparsemm")], rows.loc[("adakv", "kvpress")]
    assert (
        f"{ours['ratio_kvpress']:.1f} times as fast in 1/{theirs['kv_bytes'] / ours['kv_bytes']:.0f}"
        in FLOWING
    )
    assert rows.loc[("snapkv", "sparsemm"), "same_tokens"] == 1


@pytest.mark.parametrize(("name", "documents"), [("tiny", 500), ("query_agnostic", 200)])
def test_committed_allocations_are_of_these_cells_and_sum_to_their_realised_budgets(name, documents):
    allocations = load_allocations(RESULTS / name)
    assert allocations is not None
    samples = pd.read_parquet(RESULTS / name / "samples.parquet", columns=["cell", "realised_budget"])
    kept = allocations.groupby("cell")["kept"].agg(["mean", "size"])
    assert (kept["size"] == 8 * 4).all()
    assert (allocations["n"] == documents).all()
    realised = samples.groupby("cell")["realised_budget"].mean()
    pd.testing.assert_series_equal(kept["mean"], realised, check_names=False, rtol=1e-12)
    exact = allocations[~allocations["method"].str.endswith("_released") & allocations["budget"].notna()]
    nominal = exact.groupby(["cell", "budget"])["nominal"].mean().reset_index()
    assert (nominal["nominal"] - nominal["budget"]).abs().max() < 1e-9
