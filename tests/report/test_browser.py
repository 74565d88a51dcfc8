"""The page in a browser: filters, samples, keys, links, colours, widths, and texts that try to break out."""

import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlencode

import pytest

from sparsemm.report import PageOptions, write_report
from tests.report.browser import launched, opened, until
from tests.report.conftest import (
    DOCUMENTS,
    FULL_WRONG,
    HOSTILE_METHOD,
    HOSTILE_TASK,
    HOSTILE_TEXTS,
    SNAP_WRONG,
    question,
)

ROOT = Path(__file__).parents[2]
LOST = sorted(SNAP_WRONG - FULL_WRONG)


@pytest.fixture(scope="module")
def browser():
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def file(made, tmp_path_factory) -> Path:
    decode = ROOT / "results" / "efficiency" / "decode.csv"
    return write_report(
        made, tmp_path_factory.mktemp("report") / "report.html", PageOptions(efficiency=decode)
    )


@pytest.fixture
def page(browser, file):
    """The page; at the end of every test nothing has gone wrong in it, and only the file was read."""
    with opened(browser, file) as (page, trouble):
        yield page
        trouble.none(file.as_uri())


def address(page) -> dict[str, list[str]]:
    return parse_qs(page.url.partition("#")[2], keep_blank_values=True)


def link(file: Path, **chosen: str) -> str:
    return f"{file.as_uri()}#{urlencode(chosen)}"


def texts(page, selector: str) -> list[str]:
    return page.locator(selector).all_text_contents()


def test_charts_tables_and_samples_are_there(page):
    assert page.locator("#accuracy-plots .plot").count() == 2
    assert page.locator("#accuracy-plots .js-plotly-plot").count() == 2
    assert page.locator("#summary-table tbody tr").count() == 13
    for section in ("heads", "allocation", "efficiency"):
        page.locator(f"#{section}").scroll_into_view_if_needed()
        page.wait_for_selector(f"#{section}-plots .js-plotly-plot")
    assert texts(page, "#sample-grid tbody th") == ["SnapKV", "SparseMM", HOSTILE_METHOD]


def test_heatmaps_say_values_on_hover(page):
    page.locator("#heads").scroll_into_view_if_needed()
    area = page.wait_for_selector("#heads-plots .nsewdrag")
    area.scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    area.hover()
    said = page.wait_for_selector("#heads-plots .hoverlayer .nums").text_content()
    assert re.search(r"layer \d+, query head \d+.*% of the score.*rank \d+", said)


def test_the_allocation_of_a_chosen_cell(page):
    page.locator("#allocation").scroll_into_view_if_needed()
    page.wait_for_selector("#allocation-plots .js-plotly-plot")
    assert texts(page, "#allocation-line option") == ["SnapKV", "SparseMM"]
    maps = json.loads(page.locator("#allocations").text_content() or "")
    assert [
        one["kept"] == [[8 * layer + head for head in range(2)] for layer in range(4)] for one in maps
    ] == [True] * 2
    assert [one["nominal"] and one["nominal"][3] for one in maps] == [None, [25, 26]]
    page.select_option("#allocation-line", "SnapKV")
    assert texts(page, "#allocation-plots h3") == ["SnapKV"]
    assert "least 0.0, most 25.0" in texts(page, "#allocation-plots p")[0]


def visible_rows(page) -> int:
    return page.locator("#summary-table tbody tr:not([hidden])").count()


def test_filters_act_on_charts_and_tables_and_stay_in_the_address(page, file, browser):
    everything = visible_rows(page)
    page.get_by_role("button", name="SnapKV", exact=True).click()
    assert address(page)["methods"] == ["fullkv", "sparsemm", "random", HOSTILE_METHOD]
    assert visible_rows(page) == everything - 5
    page.locator("#tasks").get_by_role("button", name="docvqa_val").click()
    assert page.locator("#accuracy-plots .plot").count() == 1
    assert address(page)["tasks"] == [HOSTILE_TASK]
    rest = visible_rows(page)
    assert rest == 3
    assert texts(page, "#summary-count") == [f"{rest} of 13 cells"]
    page.reload()
    page.wait_for_selector("html[data-drawn]", state="attached")
    assert visible_rows(page) == rest
    with opened(browser, page.url) as (other, trouble):
        assert visible_rows(other) == rest
        trouble.none(file.as_uri())
    page.get_by_role("button", name="SnapKV", exact=True).click()
    assert visible_rows(page) == 5


def test_the_prompts_filter(page):
    page.select_option("#prompt", "question_after_compression")
    shown = page.locator("#summary-table tbody tr:not([hidden]) th").all_text_contents()
    assert shown == ["FullKV", "SnapKV, question after", "FullKV"] or sorted(shown) == [
        "FullKV",
        "FullKV",
        "SnapKV, question after",
    ]
    assert address(page)["prompt"] == ["question_after_compression"]


def test_headings_sort(page):
    page.locator("#summary-table thead").get_by_role("button", name="score").click()
    scores = [float(text) for text in texts(page, "#summary-table tbody tr td:nth-child(7)")]
    assert scores == sorted(scores)
    assert page.locator("#summary-table th[aria-sort=ascending]").count() == 1
    page.locator("#summary-table thead").get_by_role("button", name="score").click()
    assert [float(text) for text in texts(page, "#summary-table tbody tr td:nth-child(7)")] == scores[::-1]


def explore(page, task: str = "docvqa_val", show: str = "all") -> None:
    page.select_option("#sample-group", label=task)
    page.select_option("#sample-show", show)


def test_what_was_right_in_fullkv_and_is_wrong_at_a_budget(page):
    explore(page, show="lost")
    page.select_option("#sample-line", "SnapKV")
    page.select_option("#sample-column", "16")
    seen = []
    while True:
        seen.append(int(page.input_value("#sample-document")))
        assert page.locator("#sample-full").get_attribute("class") == "right"
        answer = page.get_by_role("button", name=re.compile(r"^SnapKV, 16: wrong: wrong "))
        assert answer.count() == 1
        assert "wrong" in (answer.get_attribute("class") or "")
        if page.locator("#sample-next").is_disabled():
            break
        page.click("#sample-next")
    assert seen == LOST
    assert texts(page, "#sample-count") == [
        f"{len(LOST)} of {len(LOST)} that match, of {DOCUMENTS} documents"
    ]
    page.select_option("#sample-line", "SparseMM")
    assert texts(page, "#sample-count") == [f"none of {DOCUMENTS} documents"]
    page.select_option("#sample-show", "gained")
    page.select_option("#sample-line", "SnapKV")
    assert texts(page, "#sample-count") == [
        f"1 of {len(FULL_WRONG - SNAP_WRONG)} that match, of {DOCUMENTS} documents"
    ]


def test_another_threshold_for_right(page):
    explore(page, show="right")
    assert "1 of 20 " in texts(page, "#sample-count")[0]
    page.fill("#sample-right", "1.5")
    page.locator("#sample-right").blur()
    assert texts(page, "#sample-count") == [f"none of {DOCUMENTS} documents"]


def test_a_documents_page_question_and_answers(page):
    explore(page)
    page.fill("#sample-document", "7")
    page.locator("#sample-document").blur()
    assert page.locator("#sample-question").text_content() == question(7)
    assert (page.locator("#sample-target").text_content() or "").startswith("target 7\n")
    image = page.locator("#sample-picture")
    assert image.evaluate(
        "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
    ) == [64, 48]
    assert image.get_attribute("alt") == "Picture of document 7"
    page.get_by_role("button", name=re.compile("^Random, seed 1, 16: ")).click()
    assert texts(page, "#sample-detail h3") == ["Random, seed 1, 16"]
    assert "the same text as FullKV's" in texts(page, "#sample-detail p")[0]
    assert address(page)["open"] == ["random1"]
    explore(page, HOSTILE_TASK)
    assert page.locator("#sample-picture").is_hidden()
    assert "No picture is at hand" in texts(page, "#sample-caption")[0]


def test_keys_go_to_the_next_and_previous_document(page):
    explore(page)
    page.locator("#explorer h2").click()
    assert page.input_value("#sample-document") == "0"
    for key, expected in (
        ("j", "1"),
        ("ArrowRight", "2"),
        ("k", "1"),
        ("ArrowLeft", "0"),
        ("ArrowLeft", "0"),
    ):
        page.keyboard.press(key)
        assert page.input_value("#sample-document") == expected
    page.focus("#sample-right")
    page.keyboard.press("j")
    assert page.input_value("#sample-document") == "0"


def test_links_lead_to_a_sample(page, browser, file):
    explore(page, show="lost")
    page.select_option("#sample-line", "SnapKV")
    page.select_option("#sample-column", "16")
    page.click("#sample-next")
    page.click("#sample-next")
    with opened(browser, page.url) as (other, trouble):
        assert other.input_value("#sample-document") == page.input_value("#sample-document") == str(LOST[2])
        assert texts(other, "#sample-count") == texts(page, "#sample-count")
        assert other.evaluate(
            "Math.abs(document.querySelector('#explorer').getBoundingClientRect().top) < innerHeight / 2"
        )
        other.evaluate("location.hash = 'task=docvqa_val&doc=3'")
        until(other, "document.querySelector('#sample-document').value === '3'")
        trouble.none(file.as_uri())
    with opened(browser, link(file, task="no such task", doc="-5", line="<b>", methods="?")) as (
        other,
        trouble,
    ):
        assert other.input_value("#sample-document") == "0"
        trouble.none(file.as_uri())


def test_hostile_texts_are_shown_as_they_are(page):
    explore(page)
    for at, text in enumerate(HOSTILE_TEXTS):
        page.fill("#sample-document", str(at))
        page.locator("#sample-document").blur()
        assert page.locator("#sample-question").text_content() == text
        assert page.locator("#sample-target").text_content() == f"target {at}\n{HOSTILE_TEXTS[0]}"
        assert text in (page.locator("#sample-full").text_content() or "")
        page.locator("#sample-grid .answer").first.click()
        assert text in (page.locator("#sample-detail pre").text_content() or "")
    assert HOSTILE_METHOD in texts(page, "#sample-grid tbody th")
    assert HOSTILE_METHOD in texts(page, "#methods .chip")
    assert HOSTILE_TASK in texts(page, "#accuracy-plots h3")
    assert "<b>made & up" in page.title()
    assert page.locator("img").count() == 1
    assert page.locator("script:not([type])").count() == 2
    assert page.locator("#sample-question").evaluate("one => getComputedStyle(one).unicodeBidi") in (
        "isolate",
        "plaintext",
    )


def test_a_script_that_got_in_would_not_run(browser, file):
    """The page's policy allows its own scripts alone."""
    with opened(browser, file) as (page, trouble):
        page.evaluate(
            "document.body.insertAdjacentHTML('beforeend', '<img src=\"x:\" onerror=\"window.ran = 1\">')"
        )
        page.evaluate(
            "document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = 2'}))"
        )
        page.wait_for_timeout(100)
        assert page.evaluate("window.ran") is None
        assert any("Content Security Policy" in error for error in trouble.errors)


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_its_window(browser, file, width, scheme):
    view = {"width": width, "height": 900}
    with opened(browser, file, viewport=view, color_scheme=scheme) as (page, trouble):
        for section in ("heads", "allocation", "efficiency", "explorer", "provenance"):
            page.locator(f"#{section}").scroll_into_view_if_needed()
            page.wait_for_timeout(50)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        trouble.none(file.as_uri())


def test_light_and_dark(browser, file):
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, file, color_scheme="dark") as (page, trouble):
        dark = page.evaluate(ground)
        line = page.locator("#methods .chip .swatch").first.evaluate("one => one.style.background")
        assert line == "rgb(242, 242, 242)"  # FullKV, black on light
        page.click("#theme")
        assert page.evaluate(ground) != dark
        assert page.locator("#theme").get_attribute("aria-label") == "Colours: light"
        page.reload()
        assert page.evaluate(ground) != dark
        page.click("#theme")
        assert page.evaluate(ground) == dark
        page.click("#theme")
        assert page.locator("#theme").get_attribute("aria-label") == "Colours: as the system"
        trouble.none(file.as_uri())


def test_colours_are_the_figures(page):
    from sparsemm.figures.style import method_style

    for name in ("snapkv", "sparsemm"):
        shown = page.locator(f"#summary-table [data-method-color={name}]").first.evaluate(
            "one => one.style.background"
        )
        red, green, blue = (int(number) for number in re.findall(r"\d+", shown))
        assert f"#{red:02X}{green:02X}{blue:02X}" == method_style(name).color


def test_focus_is_seen_and_everything_has_a_name(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, select, input")].filter((one) =>
            !one.textContent.trim() && !one.getAttribute("aria-label") && !one.labels?.length).length"""
    )
    assert nameless == 0
    assert page.locator(".plot .area:not([aria-label])").count() == 0
