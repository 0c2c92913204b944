"""Paired non-inferiority: what it must say of networks that are equal, better, worse, and hardly asked."""

from __future__ import annotations

import numpy as np
import pytest

from danlu.metrics.non_inferiority import non_inferiority


def _right(n: int, wrong: range) -> np.ndarray:
    found = np.ones(n, dtype=bool)
    found[wrong.start : wrong.stop] = False
    return found


def test_equal_networks_are_not_inferior_and_the_interval_has_a_width() -> None:
    both = _right(10_000, range(600))
    found = non_inferiority(both, both, 0.30)
    assert found["difference"] == 0
    assert found["gained"] == found["lost"] == 0
    assert found["low"] < 0 < found["high"]
    assert found["holds"]


def test_few_pictures_prove_nothing() -> None:
    both = _right(100, range(6))
    assert not non_inferiority(both, both, 0.30)["holds"]


def test_a_loss_above_the_margin_is_found_and_one_far_within_it_is_not() -> None:
    dense = _right(10_000, range(600))
    worse = _right(10_000, range(640))  # 0.40 points
    assert non_inferiority(dense, worse, 0.30)["difference"] == pytest.approx(-0.40)
    assert not non_inferiority(dense, worse, 0.30)["holds"]
    slightly = _right(10_000, range(605))  # 0.05 points
    assert non_inferiority(dense, slightly, 0.30)["holds"]


def test_what_counts_is_how_often_they_differ_not_how_often_they_are_wrong() -> None:
    dense, other = _right(10_000, range(600)), _right(10_000, range(600, 1200))
    assert non_inferiority(dense, other, 0.30)["difference"] == 0
    assert not non_inferiority(dense, other, 0.30)["holds"], "1200 disagreements leave a wide interval"


def test_the_interval_is_the_published_one() -> None:
    # Agresti and Min's formula by hand: cells 10 and 30 of 1000, half a picture added to each.
    dense, other = np.ones(1000, dtype=bool), np.ones(1000, dtype=bool)
    dense[:10] = False
    other[10:40] = False
    n, gained, lost = 1002, 10.5, 30.5
    centre = (gained - lost) / n
    half = 1.959963984540054 * np.sqrt((gained + lost) - (gained - lost) ** 2 / n) / n
    found = non_inferiority(dense, other, 1.0)
    assert found["low"] == pytest.approx(100 * (centre - half))
    assert found["high"] == pytest.approx(100 * (centre + half))


def test_seeds_do_not_multiply_the_pictures() -> None:
    dense, other = _right(2000, range(100)), _right(2000, range(50, 150))
    one = non_inferiority(dense, other, 0.3)
    three = non_inferiority(np.stack([dense] * 3), np.stack([other] * 3), 0.3)
    assert three["high"] - three["low"] == pytest.approx(one["high"] - one["low"])
    assert three["seeds"] == 3


@pytest.mark.parametrize(("a", "b"), [(np.ones(3), np.ones(4)), (np.ones(0), np.ones(0))])
def test_unlike_or_empty_answers_are_refused(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(ValueError, match="baseline"):
        non_inferiority(a, b, 0.3)
