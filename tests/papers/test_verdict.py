"""The rule, at its boundaries, against figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from danlu.papers.verdict import judge, prediction_interval, spread, standard_error


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([], "not run"),
        ([8.75], "reproduced"),
        ([8.85], "reproduced"),  # worse by the tolerance, no more
        ([8.8500001], "close"),
        ([8.95], "close"),  # by twice the tolerance
        ([8.9500001], "missed"),
        ([8.65], "reproduced"),
        ([8.6499999], "better"),
    ],
)
def test_one_seed_is_judged_by_the_tolerance(values: list[float], verdict: str) -> None:
    assert judge(values, 8.75, 0.1, "lower") == verdict
    mirrored = [100.0 - value for value in values]
    assert judge(mirrored, 91.25, 0.1, "higher") == verdict


def test_decimal_figures_are_not_pushed_over_the_edge_by_rounding() -> None:
    assert 1.05 - 0.95 > 0.1  # what floating point makes of it
    assert judge([1.05], 0.95, 0.1, "lower") == "reproduced"
    assert judge([0.1 + 0.2], 0.2, 0.1, "lower") == "reproduced"


def test_the_standard_error_is_that_of_the_mean() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    assert spread(values) == pytest.approx(math.sqrt(5 / 3))  # divided by n - 1
    assert standard_error(values) == pytest.approx(math.sqrt(5 / 3) / 2)
    assert standard_error([7.0]) == 0.0


def test_two_standard_errors_widen_the_margin_and_no_more() -> None:
    values = [8.0, 10.0, 9.0]  # mean 9, s = 1, standard error 0.57735
    margin = 2 / math.sqrt(3)
    assert judge(values, 9 - 0.999 * margin, 0.1, "lower") == "reproduced"
    assert judge(values, 9 - 1.001 * margin, 0.1, "lower") == "close"
    assert judge(values, 9 - 1.999 * margin, 0.1, "lower") == "close"
    assert judge(values, 9 - 2.001 * margin, 0.1, "lower") == "missed"
    assert judge(values, 9 + 1.001 * margin, 0.1, "lower") == "better"


def test_the_larger_of_tolerance_and_two_errors_counts() -> None:
    values = [8.99, 9.01]
    assert judge(values, 8.5, 0.5, "lower") == "reproduced"
    assert judge(values, 8.5, 0.4, "lower") == "close"


def test_where_any_difference_is_worse() -> None:
    assert judge([1.0], 1.0, 0.0, "same") == "reproduced"
    assert judge([0.0], 1.0, 0.0, "same") == "missed"
    assert judge([2.0], 1.0, 0.0, "same") == "missed"
    with pytest.raises(ValueError, match="lower, higher or same"):
        judge([1.0], 1.0, 0.0, "more")


def test_the_prediction_interval_is_students() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]  # mean 3, s = 1.5811, t for 4 degrees of freedom = 2.776
    low, high = prediction_interval(values, 5) or (0.0, 0.0)
    half = 2.776 * math.sqrt(2.5) * math.sqrt(1 / 5 + 1 / 5)
    assert (low, high) == pytest.approx((3 - half, 3 + half))
    assert prediction_interval([1.0]) is None
    wide = prediction_interval(values, 1) or (0.0, 0.0)
    assert wide[1] - wide[0] > high - low  # one further seed scatters more than the mean of five


def test_the_prediction_interval_covers_what_it_says() -> None:
    import numpy as np

    draws = np.random.default_rng(0).normal(size=(4000, 8))
    inside = 0
    for row in draws:
        low, high = prediction_interval(row[:5].tolist(), 3) or (0.0, 0.0)
        inside += low <= row[5:].mean() <= high
    assert inside / len(draws) == pytest.approx(0.95, abs=0.012)
