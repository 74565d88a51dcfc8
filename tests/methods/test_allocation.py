"""Rounding, filling and counting: sums, bounds, order, and the plain formulas."""

from fractions import Fraction

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from sparsemm.methods.allocation import largest_remainder, top_counts, water_fill
from tests.methods import reference

sizes = st.integers(0, 300)
ratios = st.sampled_from([0.0, 0.1, 0.25, 0.9, 1.0])
# Scores as heads have them: many equal, many zero, some tiny, some that rule the model.
scores = st.lists(
    st.sampled_from([0.0, 0.0, 1.0, 1.0, 3.0, 1e-320, 1e-12, 1e6]) | st.floats(0, 1), min_size=1, max_size=24
).filter(lambda values: sum(values) > 0)


def filled(values: list[float], n: int, b: int, ratio: float) -> list[int]:
    tensor = torch.tensor(values, dtype=torch.float64)
    shares = water_fill(tensor / tensor.sum(), n=n, b=b, ratio=ratio)
    return largest_remainder(shares, torch.tensor(len(values) * min(b, n))).tolist()


@given(scores, sizes, sizes, ratios)
def test_quotas_sum_and_stay_in_bounds(values, n, b, ratio):
    quotas = filled(values, n, b, ratio)
    assert sum(quotas) == len(values) * min(b, n)
    assert all(0 <= quota <= n for quota in quotas)
    assert all(quota >= int(ratio * min(b, n) - 1e-6) for quota in quotas)


@given(scores, sizes, sizes, ratios)
@example([0.0, 1e-320, 1e6], 2, 1, 0.0)  # a share below the least float is zero for both
def test_filling_equals_the_reference(values, n, b, ratio):
    # The reference sums the same shares exactly; where floats cannot, one may be off by less than the step.
    tensor = torch.tensor(values, dtype=torch.float64)
    given_shares = [Fraction(share) for share in (tensor / tensor.sum()).tolist()]
    expected = reference.sparsemm(n, b, [[share / sum(given_shares) for share in given_shares]], ratio)[0]
    assert filled(values, n, b, ratio) == expected


@given(scores, sizes, sizes, ratios)
def test_more_budget_takes_nothing_away(values, n, b, ratio):
    # Largest remainders may move one token between heads; the shares themselves only grow.
    tensor = torch.tensor(values, dtype=torch.float64)
    tensor = tensor / tensor.sum()
    less, more = (water_fill(tensor, n=n, b=budget, ratio=ratio) for budget in (b, b + 1))
    assert bool((more >= less - 1e-6).all())
    few, many = filled(values, n, b, ratio), filled(values, n, b + 1, ratio)
    assert sum(many) >= sum(few)
    assert all(after >= before - 1 for before, after in zip(few, many, strict=True))


@given(scores, sizes, sizes, ratios)
def test_better_heads_keep_no_less(values, n, b, ratio):
    ordered = sorted(values, reverse=True)
    quotas = filled(ordered, n, b, ratio)
    assert quotas == sorted(quotas, reverse=True)


def test_silent_heads_share_what_is_left_equally():
    # Two heads with a score hold 2 * 10; 5 * 6 - 20 tokens are left for three.
    assert filled([3.0, 0.0, 1.0, 0.0, 0.0], n=10, b=6, ratio=0.1) == [10, 4, 10, 3, 3]


def test_equal_remainders_go_to_the_lower_index():
    shares = torch.tensor([[1.5, 2.5, 0.25, 0.75], [1 / 3] * 3 + [0.0]], dtype=torch.float64)
    assert largest_remainder(shares, torch.tensor([5, 1])).tolist() == [[2, 2, 0, 1], [1, 0, 0, 0]]
    many = largest_remainder(torch.full((1000,), 0.25, dtype=torch.float64), torch.tensor(250))
    assert many.tolist() == [1] * 250 + [0] * 750


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(0, 20)
)
def test_counts_with_ties_go_to_the_lower_head(values, count):
    count = min(count, 5 * len(values))
    entries = sorted((-value, head) for head, row in enumerate(values) for value in row)
    winners = [head for _, head in entries[:count]]
    counted = top_counts(torch.tensor([values], dtype=torch.float32), torch.tensor([count]), count)
    assert counted.tolist() == [[winners.count(head) for head in range(len(values))]]
