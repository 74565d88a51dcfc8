import io
import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from sparsemm.figures import accuracy_vs_budget
from sparsemm.figures.style import METHOD_STYLES, legend_order, method_style


def draw(figure: Figure) -> Figure:
    """Lay the figure out, as saving does."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


def assert_no_overlap(boxes) -> None:
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other), (one, other)


def test_panels_are_tasks_and_lines_are_the_rows_scores(cells):
    figure = accuracy_vs_budget(cells)
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == ["tiny_docvqa\ntiny, n = 200", "tiny_ocr\ntiny, n = 200"]
    panel = figure.axes[1]
    lines = {line.get_label(): line for line in panel.lines}
    snapkv = cells[(cells["task"] == "tiny_ocr") & (cells["method"] == "snapkv")]
    np.testing.assert_array_equal(lines["SnapKV"].get_xdata(), snapkv["budget"])
    np.testing.assert_array_equal(lines["SnapKV"].get_ydata(), snapkv["score"])
    assert len(panel.lines) == 6


def test_budget_axis_is_log2_and_descends_and_names_the_budgets(cells):
    for panel in draw(accuracy_vs_budget(cells)).axes:
        left, right = panel.get_xlim()
        assert left > 128 > 12 > right
        assert panel.get_xscale() == "log"
        assert vars(panel.xaxis.get_transform())["base"] == 2
        labels = [int(text.get_text()) for text in panel.get_xticklabels()]
        assert labels == [128, 96, 48, 32, 24, 16, 12]


def test_fullkv_is_a_dashed_horizontal_line_at_its_score(cells):
    panel = accuracy_vs_budget(cells).axes[0]
    (full,) = (line for line in panel.lines if line.get_linestyle() == "--")
    np.testing.assert_array_equal(full.get_ydata(), [0.9, 0.9])


def test_confidence_bands_appear_only_with_intervals(cells):
    assert not accuracy_vs_budget(cells).axes[0].collections
    banded = cells.assign(ci_low=cells["score"] - 0.05, ci_high=cells["score"] + 0.05)
    panel = accuracy_vs_budget(banded).axes[0]
    assert len(panel.collections) == 5  # a band for each method with budgets
    assert len(panel.patches) == 1  # and FullKV's


def test_seeds_are_averaged(cells):
    random = cells[cells["method"] == "random"]
    other = random.assign(score=random["score"] + 0.1, method_params='{"kernel": 5, "seed": 1}')
    panel = accuracy_vs_budget(pd.concat([random, other])).axes[0]
    expected = random[random["task"] == "tiny_docvqa"]["score"] + 0.05
    np.testing.assert_allclose(panel.lines[0].get_ydata(), expected)


@pytest.mark.parametrize("width", [6.9, 3.35])
def test_labels_titles_and_legend_do_not_overlap(cells, width):
    dense = cells.assign(budget=cells["budget"].replace({12: 14, 128: 100}))
    snapkv = dense[dense["method"] == "snapkv"]
    methods = [
        snapkv.assign(method=method) for method in (*METHOD_STYLES, "sparsemm_released") if method != "fullkv"
    ]
    table = pd.concat([dense[dense["method"] == "fullkv"], *methods])
    figure = draw(accuracy_vs_budget(table, width=width))
    (legend,) = figure.legends
    for panel in figure.axes:
        ticks = [text.get_window_extent() for text in panel.get_xticklabels()]
        assert_no_overlap(ticks)
        assert len(ticks) >= 3
    label = figure.findobj(
        lambda artist: isinstance(artist, Text) and artist.get_text().startswith("budget")
    )[0]
    boxes = [
        legend.get_window_extent(),
        label.get_window_extent(),
        *(axes.get_tightbbox() for axes in figure.axes),
    ]
    assert_no_overlap(boxes)
    for box in boxes:
        assert box is not None
        assert figure.bbox.padded(1).contains(*box.min)
        assert figure.bbox.padded(1).contains(*box.max)


def test_every_model_begins_a_row(cells):
    both = pd.concat([cells, cells.assign(model="other")])
    titles = [panel.get_title() for panel in accuracy_vs_budget(both).axes]
    assert titles == [
        f"{task}\n{model}, n = 200" for model in ("tiny", "other") for task in ("tiny_docvqa", "tiny_ocr")
    ]


def test_shares_of_the_prompt_are_percent(cells):
    shares = cells.assign(budget=cells["budget"] / 128)
    panel = draw(accuracy_vs_budget(shares)).axes[0]
    assert panel.get_xticklabels()[0].get_text() == "100%"
    assert "share" in panel.figure.get_supxlabel()


def test_fullkv_alone_needs_no_budget_axis(cells):
    panel = draw(accuracy_vs_budget(cells[cells["method"] == "fullkv"])).axes[0]
    assert not panel.get_xticklabels()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cells: cells.drop(columns=["score", "budget"]), "needs the columns budget, score"),
        (lambda cells: cells.iloc[:0], "at least one cell with a score"),
        (lambda cells: cells.assign(score=np.nan), "at least one cell with a score"),
        (
            lambda cells: cells.assign(budget=cells["budget"].replace({12: 0.1})),
            "mix token counts and shares",
        ),
        (
            lambda cells: cells.assign(budget=cells["budget"].replace({12: np.nan})),
            "have a budget and others have none",
        ),
        (lambda cells: pd.concat([cells, cells.assign(ablation="mask_visual")]), "differ in ablation"),
        (lambda cells: pd.concat([cells, cells.assign(n=20)]), "differ in n"),
        (
            lambda cells: pd.concat([cells, cells.assign(method_params='{"kernel": 7}')]),
            "differ in method_params",
        ),
    ],
)
def test_tables_that_cannot_be_drawn_truthfully_are_refused_in_one_line(cells, change, message):
    with pytest.raises(ValueError, match=message) as error:
        accuracy_vs_budget(change(cells))
    assert "\n" not in str(error.value)


def test_no_two_methods_look_alike():
    names = [*METHOD_STYLES, "adakv_released", "pyramidkv_released", "sparsemm_released", "streamingllm"]
    looks = {(style.color, style.marker, style.linestyle, style.filled) for style in map(method_style, names)}
    assert len(looks) == len(names)


def test_a_new_method_gets_a_style_and_the_last_place():
    assert method_style("streamingllm").label == "streamingllm"
    assert method_style("streamingllm") == method_style("streamingllm")
    assert sorted(["streamingllm", "random", "adakv_released", "adakv", "fullkv"], key=legend_order) == [
        "fullkv",
        "adakv",
        "adakv_released",
        "random",
        "streamingllm",
    ]
