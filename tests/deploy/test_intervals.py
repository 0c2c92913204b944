"""Percentiles and their intervals: those of the tables, and as sure as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.deploy.intervals import median_interval, percentile, percentile_interval


@pytest.mark.parametrize(("n", "ranks"), [(5, (1, 5)), (6, (1, 6)), (9, (2, 8)), (20, (6, 15)), (60, (22, 39))])
def test_the_interval_is_that_of_the_tables(n: int, ranks: tuple[int, int]) -> None:
    """Ranks of the 95 % interval of a median, as published tables have them."""
    median, low, high = median_interval(np.arange(1, n + 1)[::-1].astype(float))
    assert median == (n + 1) / 2
    assert (low, high) == ranks


def test_the_interval_covers_as_often_as_it_says() -> None:
    for n in range(6, 60):
        _, low, high = median_interval(np.arange(1, n + 1).astype(float))
        outside = 2 * sum(math.comb(n, k) for k in range(int(low))) / 2**n
        assert outside <= 0.05
        assert high == n + 1 - low
        wider = 2 * sum(math.comb(n, k) for k in range(int(low) + 1)) / 2**n
        assert wider > 0.05
    with pytest.raises(ValueError, match="no values"):
        median_interval(np.array([]))


@pytest.mark.parametrize(
    ("n", "percent", "rank"),
    [(1, 99, 1), (10, 90, 9), (11, 90, 10), (100, 99, 99), (101, 99, 100), (100, 100, 100), (3, 1, 1)],
)
def test_a_percentile_is_the_nearest_rank(n: int, percent: float, rank: int) -> None:
    assert percentile(np.arange(1, n + 1)[::-1], percent) == rank


@pytest.mark.parametrize("wrong", [0, -1, 100.1, float("nan")])
def test_no_such_percentile(wrong: float) -> None:
    with pytest.raises(ValueError, match="percent"):
        percentile([1.0], wrong)


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=300),
    st.sampled_from([1.0, 10.0, 50.0, 90.0, 99.0, 99.9]),
)
@settings(max_examples=200, deadline=None)
def test_what_a_percentile_promises(values: list[float], percent: float) -> None:
    found, low, high = percentile_interval(values, percent)
    assert found in values
    assert sum(value <= found for value in values) >= percent / 100 * len(values) - 1e-6
    assert sum(value < found for value in values) < percent / 100 * len(values)
    assert low is None or low <= found
    assert high is None or high >= found
    median, low, high = median_interval(values)
    assert min(values) <= low <= median <= high <= max(values)


@pytest.mark.parametrize(("percent", "n"), [(50, 6), (90, 36), (99, 368)])
def test_an_upper_end_needs_enough_values(percent: float, n: int) -> None:
    """One value of n is the highest; it bounds the q-quantile with confidence 1 - q**n on that side."""
    assert percentile_interval(np.arange(n), percent)[2] == n - 1
    assert percentile_interval(np.arange(n - 1), percent)[2] is None


@pytest.mark.parametrize(("percent", "n"), [(50, 25), (90, 100), (99, 1000)])
def test_the_interval_holds_the_true_percentile(percent: float, n: int) -> None:
    """Drawn 2,000 times from an exponential distribution, whose percentiles are known."""
    draw = np.random.default_rng(3)
    true = -math.log1p(-percent / 100)
    inside = below = 0
    for _ in range(2000):
        _, low, high = percentile_interval(draw.exponential(size=n), percent)
        assert low is not None
        assert high is not None
        inside += low <= true <= high
        below += true < low
    assert 0.945 <= inside / 2000 <= 0.985
    assert below / 2000 <= 0.035  # each side errs by at most 2.5 %


def test_many_values_do_not_overflow() -> None:
    values = np.arange(200_000) / 200_000
    found, low, high = percentile_interval(values, 99)
    assert low is not None
    assert high is not None
    assert 0.989 < low < found < high < 0.991
