"""Intervals: against scipy and slow obvious loops, clustered, paired, and through tasks' own aggregations."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap

from sparsemm.evaluation import uncertainty
from sparsemm.evaluation.uncertainty import interval, intervals

RNG = np.random.default_rng(3)
OCRBENCH = "lmms_eval.tasks.ocrbench.utils:ocrbench_aggregate_accuracy"
MME = "lmms_eval.tasks.mme.utils:mme_aggregate_results"


def cell(scores, score=None, images=None, **samples) -> dict[str, Any]:
    samples |= {"score": [None if value is None else float(value) for value in scores]}
    if images is not None:
        samples["image"] = images
    return {
        "row": {"score": math.fsum(scores) / len(scores) if score is None else score},
        "samples": samples,
    }


def corpus(aggregation: str, inputs: list[Any], score: float, images=None) -> dict[str, Any]:
    made = cell([None] * len(inputs), score=score, images=images, aggregated=inputs)
    made["row"]["aggregation"] = aggregation
    return made


def ocrbench(found) -> dict[str, Any]:
    kinds = ("Regular Text Recognition", "Scene Text-centric VQA", "Key Information Extraction")
    inputs = [{"question_type": kinds[i % 3], "score": int(score)} for i, score in enumerate(found)]
    return corpus(OCRBENCH, inputs, sum(entry["score"] for entry in inputs) / 1000)


def width(columns, prefix="ci") -> float:
    return columns[f"{prefix}_high"] - columns[f"{prefix}_low"]


def slow_interval(scores, images, resamples=3000) -> tuple[float, float]:
    """Draw images with replacement, take all their documents, average."""
    documents = {image: [s for s, i in zip(scores, images, strict=True) if i == image] for image in images}
    rng, means = np.random.default_rng(17), []
    for _ in range(resamples):
        drawn = [s for image in rng.choice(list(documents), len(documents)) for s in documents[str(image)]]
        means.append(sum(drawn) / len(drawn))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


@pytest.mark.parametrize("values", [RNG.random(200), RNG.random(120) < 0.9, RNG.random(40) ** 4])
def test_interval_is_scipys(values):
    values = values.astype(float)
    theirs = bootstrap(
        (values,),
        np.mean,
        n_resamples=uncertainty.RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(uncertainty.SEED),
    ).confidence_interval
    assert interval(list(values)) == pytest.approx((theirs.low, theirs.high), abs=1e-6)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    draws = RNG.random((400, 100)) < 0.7
    inside = [low <= 0.7 <= high for low, high in (interval(list(row.astype(float))) for row in draws)]
    assert 0.90 <= np.mean(inside) <= 0.99


def test_clustered_intervals_cover_where_plain_ones_do_not():
    """Four documents an image, right or wrong together: the plain interval is half as wide as is right."""
    clusters = np.repeat(np.arange(50), 4)
    draws = np.repeat(RNG.random((200, 50)) < 0.7, 4, axis=1).astype(float)

    def coverage(clusters) -> float:
        ends = [interval(list(row), clusters) for row in draws]
        return float(np.mean([low <= 0.7 <= high for low, high in ends]))

    assert 0.88 <= coverage(clusters) <= 0.99
    assert coverage(None) < 0.8


def test_documents_that_share_images_are_drawn_together():
    images = [f"page {number}" for number in RNG.integers(0, 40, 160)]  # clusters of different sizes
    right = {image: RNG.random() < 0.6 for image in images}
    scores = [float(right[image]) for image in images]
    (clustered,), (plain,) = intervals([cell(scores, images=images)], None), intervals([cell(scores)], None)
    assert width(clustered) > 1.5 * width(plain)
    low, high = slow_interval(scores, images)
    assert clustered["ci_low"] == pytest.approx(low, abs=0.1 * (high - low))
    assert clustered["ci_high"] == pytest.approx(high, abs=0.1 * (high - low))


def test_distinct_or_unknown_images_are_the_plain_bootstrap():
    scores = RNG.random(60)
    (plain,) = intervals([cell(scores)], None)
    assert intervals([cell(scores, images=[f"{n}" for n in range(60)])], None) == [plain]
    assert intervals([cell(scores, images=[""] * 60)], None) == [plain]  # prompts without an image
    assert (plain["ci_low"], plain["ci_high"]) == interval(list(scores))


def test_differences_are_paired():
    """A constant loss on every document is known exactly, however much documents differ."""
    full = RNG.random(100)
    (columns,) = intervals([cell(full - 0.1)], cell(full))
    assert columns["diff_ci_low"] == pytest.approx(-0.1)
    assert columns["diff_ci_high"] == pytest.approx(-0.1)
    assert width(columns) > 0.05
    near, far = np.clip(full + 0.02 * RNG.random(100), 0, 1), RNG.permutation(full)
    close, apart = intervals([cell(near), cell(far)], cell(full))
    assert width(close, "diff_ci") < 0.2 * width(apart, "diff_ci")


def test_a_paired_difference_is_the_interval_of_the_documents_differences():
    ours, full = (RNG.random(80) < 0.6).astype(float), (RNG.random(80) < 0.8).astype(float)
    (columns,) = intervals([cell(ours)], cell(full))
    assert (columns["diff_ci_low"], columns["diff_ci_high"]) == pytest.approx(interval(list(ours - full)))


def test_cells_do_not_depend_on_the_cells_beside_them():
    full, images = (
        cell(RNG.random(50), images=[str(n // 2) for n in range(50)]),
        [str(n // 2) for n in range(50)],
    )
    cells = [cell(RNG.random(50), images=images) for _ in range(5)] + [full]
    together = intervals(cells, full)
    assert together == [intervals([one], full)[0] for one in cells]
    assert together == intervals(cells[::-1], full)[::-1]
    assert together[-1]["diff_ci_low"] == together[-1]["diff_ci_high"] == 0


def test_no_interval_without_what_the_score_is_made_of():
    assert intervals([cell([0.5, 1.0], score=0.2)], None) == [{}]
    assert intervals([cell([None, 1.0], score=0.5)], None) == [{}]
    assert intervals([cell([1.0])], None) == [{}]  # one document says nothing of others
    assert intervals([cell([1.0, 0.0], images=["same", "same"])], None) == [{}]
    assert set(intervals([cell([0.5, 1.0])], None)[0]) == {"ci_low", "ci_high"}


def test_official_ocrbench_through_its_own_aggregation():
    """A sum over 1000 that adds to counts in its module: resamples must not see each other's."""
    full, ours = ocrbench(RNG.random(90) < 0.8), ocrbench(RNG.random(90) < 0.5)
    columns, own = intervals([ours, full], full)
    scores = [float(entry["score"]) for entry in ours["samples"]["aggregated"]]
    low, high = interval(scores)
    assert columns["ci_low"] == pytest.approx(low * 90 / 1000, abs=0.15 * width(columns))
    assert columns["ci_high"] == pytest.approx(high * 90 / 1000, abs=0.15 * width(columns))
    assert columns["diff_ci_high"] < 0
    assert own["diff_ci_low"] == own["diff_ci_high"] == 0


def test_mme_keeps_the_two_questions_of_an_image_together():
    """Its aggregation wants exactly two answers an identifier, also where an image is drawn twice."""
    inputs = [
        {"question_id": f"{n // 2}.png", "category": "OCR", "score": float(RNG.random() < 0.7)}
        for n in range(60)
    ]
    pairs = [inputs[n]["score"] + inputs[n + 1]["score"] for n in range(0, 60, 2)]
    score = sum(100 * (pair / 2 + (pair == 2)) for pair in pairs) / 30
    (columns,) = intervals([corpus(MME, inputs, score, images=[str(n // 2) for n in range(60)])], None)
    low, high = interval([100 * (pair / 2 + (pair == 2)) for pair in pairs])
    assert columns["ci_low"] == pytest.approx(low, abs=0.15 * (high - low))
    assert columns["ci_high"] == pytest.approx(high, abs=0.15 * (high - low))
    with pytest.warns(UserWarning, match="MME only supports pairwise evaluation"):
        assert intervals([corpus(MME, inputs, score)], None) == [{}]


def test_corpus_and_mean_agree_where_the_aggregation_is_a_mean():
    scores = [float(value) for value in RNG.random(60) < 0.7]
    made = corpus(
        "sparsemm.evaluation.task_files:share_found", [{"score": score} for score in scores], sum(scores) / 60
    )
    (columns,) = intervals([made], None)
    low, high = interval(scores)
    assert (columns["ci_low"], columns["ci_high"]) == pytest.approx((low, high), abs=0.15 * (high - low))


def test_corpus_intervals_are_quiet_and_repeat(capfd):
    """On the same documents a difference is paired here too, and printing and logging are dropped."""
    cells = [ocrbench(RNG.random(40) < 0.8), ocrbench(RNG.random(40) < 0.3)]
    first = intervals(cells, cells[0])
    uncertainty._resampled_corpus.cache_clear()
    assert intervals(cells[::-1], cells[0]) == first[::-1]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "lmms_eval",
        "lmms_evil.tasks:mean",
        "lmms_eval.tasks.ocrbench.utils:logger",
        "lmms_eval.tasks.ocrbench.utils:generate_submission_file",  # imported there, not of that module
        "sparsemm.nowhere:mean",
        "sparsemm.evaluation.tasks:nothing",
        7,
    ],
)
def test_names_of_other_code_are_refused(name):
    with pytest.raises(ValueError, match="aggregation") as error:
        intervals([corpus(name, [1, 2], 3.0)], None)
    assert "\n" not in str(error.value)


def test_an_aggregation_that_gives_another_score_gives_no_interval():
    made = corpus("sparsemm.evaluation.task_files:share_found", [{"score": 1}, {"score": 0}], 0.9)
    with pytest.warns(UserWarning, match="gives 0.5 for all documents, and the score is 0.9"):
        assert intervals([made], None) == [{}]
