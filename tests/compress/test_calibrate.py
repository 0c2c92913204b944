"""Ranges of activations: what each rule chooses, against values that say it directly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from danlu.compress.calibrate import BINS, CALIBRATIONS, Histogram, choose_range


def histogram(values: Any) -> Histogram:
    least, most = min(0.0, float(values.min())), max(0.0, float(values.max()))
    return Histogram(least, most, np.histogram(values, BINS, (least, most))[0])


def error(values: Any, low: float, high: float) -> float:
    step = (high - low) / 255
    zero = np.round(-low / step)
    rounded = (np.clip(np.round(values / step) + zero, 0, 255) - zero) * step
    return float(((rounded - values) ** 2).mean())


def outlying(seed: int = 0) -> Any:
    values = np.abs(np.random.default_rng(seed).normal(size=100_000))
    values[:3] = 40.0
    return values


def test_min_max_keeps_everything_and_the_others_clip_outliers() -> None:
    found = {rule: choose_range(histogram(outlying()), rule) for rule in CALIBRATIONS}
    assert found["min-max"] == (0.0, 40.0)
    for rule in ("percentile", "entropy", "mse"):
        assert found[rule][0] == 0.0
        assert 2.5 < found[rule][1] < 39.0, rule


def test_percentile_leaves_one_in_ten_thousand_out() -> None:
    values = outlying()
    high = choose_range(histogram(values), "percentile")[1]
    assert (values > high).mean() <= 1e-4
    assert (values > high - 2 * 40.0 / BINS).mean() >= 0.5e-4
    signed = np.random.default_rng(0).normal(size=200_000)
    low, high = choose_range(histogram(signed), "percentile")
    assert (signed < low).mean() == pytest.approx(0.5e-4, rel=0.5)
    assert (signed > high).mean() == pytest.approx(0.5e-4, rel=0.5)


def test_mse_has_the_least_squared_error_of_all_rules() -> None:
    rng = np.random.default_rng(1)
    for values in (outlying(), rng.normal(size=50_000), rng.laplace(size=50_000), rng.uniform(size=50_000)):
        errors = {rule: error(values, *choose_range(histogram(values), rule)) for rule in CALIBRATIONS}
        assert errors["mse"] <= 1.02 * min(errors.values())


def test_entropy_keeps_a_uniform_distribution_whole() -> None:
    values = np.random.default_rng(2).uniform(size=200_000)
    assert choose_range(histogram(values), "entropy")[1] > 0.95


def test_nothing_seen_and_unknown_rules() -> None:
    empty = Histogram(0.0, 0.0, np.zeros(BINS, dtype=np.int64))
    assert {choose_range(empty, rule) for rule in CALIBRATIONS} == {(0.0, 0.0)}
    with pytest.raises(ValueError, match="allowed are"):
        choose_range(empty, "best")
