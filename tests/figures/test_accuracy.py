import io
import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from sparsemm.figures import accuracy_vs_budget, accuracy_vs_realised_budget, published_for
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
    assert titles == ["tiny_docvqa\nANLS, 0–1, n = 200", "tiny_ocr\naccuracy, 0–1, n = 200"]
    assert [panel.get_ylabel() for panel in figure.axes] == ["tiny", ""]
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


def test_models_are_rows_and_tasks_columns(cells):
    other = cells[cells["task"] == "tiny_ocr"].assign(model="other", n=100)
    figure = draw(accuracy_vs_budget(pd.concat([cells, cells.assign(model="second"), other])))
    panels = [panel for panel in figure.axes if panel.axison]
    assert [panel.get_ylabel() for panel in panels] == ["tiny", "", "second", "", "other"]
    titles = [panel.get_title().split("n = ")[-1] for panel in panels]
    assert titles == ["200", "200", "", "", "100"]  # said again where it differs from the row above
    boxes = [panel.get_position() for panel in panels]
    assert boxes[0].x0 == boxes[2].x0 < boxes[1].x0 == boxes[3].x0 == boxes[4].x0
    assert boxes[0].y0 == boxes[1].y0 > boxes[2].y0 == boxes[3].y0 > boxes[4].y0


@pytest.mark.parametrize(("width", "rows"), [(6.9, 1), (3.35, 3)])
def test_the_papers_five_tasks_fit_on_a_page_and_wrap_in_a_column(official, width, rows):
    one = official[official["model"] == "qwen2_vl_7b"]
    figure = draw(accuracy_vs_budget(one, width=width))
    panels = [panel for panel in figure.axes if panel.axison]
    assert len(panels) == 5
    assert len({round(panel.get_position().y0, 3) for panel in panels}) == rows
    assert all(panel.get_title() for panel in panels)
    assert_no_overlap([panel.get_tightbbox() for panel in panels])


def test_published_scores_are_stars_in_the_methods_colours(official):
    published = published_for(official)
    figure = accuracy_vs_budget(official, published=published)
    panel = figure.axes[0]  # LLaVA-NeXT on Vicuna, DocVQA
    stars = [line for line in panel.lines if line.get_marker() == "*"]
    assert [star.get_color() for star in stars] == [
        method_style(name).color for name in ("snapkv", "pyramidkv", "adakv", "sparsemm", "random")
    ]
    assert dict(zip(*np.asarray(stars[3].get_data()).tolist(), strict=True)) == {
        **{64: 0.6377, 128: 0.6677, 256: 0.6784},  # table 5, within the axis
    }
    assert figure.legends[0].get_texts()[-1].get_text() == "published (arXiv 2506.05344)"
    with pytest.raises(ValueError, match="no published score is of these"):
        accuracy_vs_budget(official, published=published.iloc[:0])


def test_points_of_the_other_figure_stand_at_what_was_kept(measured):
    figure = accuracy_vs_realised_budget(measured)
    panel = figure.axes[1]
    lines = {line.get_label(): line for line in panel.lines}
    own = measured[(measured["task"] == "tiny_ocr") & (measured["method"] == "adakv")]
    np.testing.assert_array_equal(lines["AdaKV"].get_xdata(), own["realised_budget"])
    np.testing.assert_array_equal(lines["AdaKV"].get_ydata(), own["score"])
    left, right = panel.get_xlim()
    assert left > own["realised_budget"].max()
    assert right < own["realised_budget"].min()
    labels = [int(text.get_text()) for text in draw(figure).axes[0].get_xticklabels()]
    assert labels == [128, 64, 32, 16]
    with pytest.raises(ValueError, match="no row with a budget has a realised one"):
        accuracy_vs_realised_budget(measured.assign(realised_budget=np.nan))


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
