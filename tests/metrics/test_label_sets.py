"""The figures over several labels a picture against scikit-learn, and where they are not defined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from danlu.metrics.cross_entropy import binary_cross_entropies
from danlu.metrics.f1_macro import f1_macro
from danlu.metrics.f1_micro import f1_micro
from danlu.metrics.mean_average_precision import mean_average_precision

Matrix = NDArray[Any]
Metric = Callable[[Matrix, Matrix], dict[str, Any]]


@pytest.mark.parametrize("seed", range(4))
def test_they_are_those_of_scikit_learn(seed: int) -> None:
    draw = np.random.default_rng(seed)
    labels = (draw.random((60, 5)) < 0.3).astype(np.int64)
    scores = np.round(draw.normal(size=(60, 5)) + 1.5 * labels, 1)  # rounded, so that some are equal
    decided = scores > 0.5
    for found, expected in (
        (f1_micro(labels, decided), sk.f1_score(labels, decided, average="micro")),
        (f1_macro(labels, decided), sk.f1_score(labels, decided, average="macro")),
        (mean_average_precision(labels, scores), sk.average_precision_score(labels, scores, average="macro")),
    ):
        assert found["value"] == pytest.approx(expected)
        assert found["low"] < found["value"] < found["high"]
        assert found["n"] == 60
    p = 1 / (1 + np.exp(-scores))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum(axis=1)
    assert binary_cross_entropies(labels, scores) == pytest.approx(expected)


def covered(metric: Metric, truth: float, labels: Matrix, outputs: Matrix, n: int) -> int:
    """Return how many of the samples of ``n`` pictures have an interval that holds the population's figure."""
    samples = [slice(begin, begin + n) for begin in range(0, len(labels), n)]
    found = [metric(labels[sample], outputs[sample]) for sample in samples]
    return sum(one["low"] <= truth <= one["high"] for one in found)


def test_the_interval_holds_as_often_as_it_says() -> None:
    """Of 200 samples from a population of known F1, about 95 % of the intervals cover it; at least 88 % here."""
    draw = np.random.default_rng(0)
    labels = (draw.random((50_000, 2)) < 0.4).astype(np.int64)
    decided = np.where(draw.random((50_000, 2)) < 0.8, labels, 1 - labels)
    truth = sk.f1_score(labels, decided, average="micro")
    assert 176 <= covered(f1_micro, truth, labels, decided, 250) <= 199


def test_the_interval_of_a_weak_ranking_of_rare_classes_holds() -> None:
    """Where a class is rare, drawing pictures twice flatters AP; 50 samples of 300 from a known population."""
    draw = np.random.default_rng(1)
    labels = (draw.random((15_000, 10)) < 0.05).astype(np.int64)
    scores = draw.normal(size=labels.shape) + labels
    truth = sk.average_precision_score(labels, scores, average="macro")
    # The percentiles as they are hold 14 times.
    assert covered(mean_average_precision, truth, labels, scores, 300) >= 43


def test_rounds_in_parts_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    labels = (draw.random((50, 3)) < 0.2).astype(np.int64)
    scores = np.round(draw.normal(size=(50, 3)) + labels, 1)
    whole = mean_average_precision(labels, scores)
    monkeypatch.setattr("danlu.metrics.mean_average_precision._HELD", 350)
    assert mean_average_precision(labels, scores) == whole


def test_classes_that_say_nothing() -> None:
    labels, decided = np.array([[1, 0], [0, 0]]), np.array([[1, 0], [0, 0]])
    assert f1_macro(labels, decided)["value"] == 1.0
    assert f1_micro(np.zeros((2, 2)), np.zeros((2, 2)))["value"] == 1.0
    assert mean_average_precision(labels, decided)["value"] == 1.0
    for metric in (f1_macro, mean_average_precision):
        with pytest.raises(ValueError, match="not defined"):
            metric(np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="0 or 1"):
        f1_micro(np.full((2, 2), 2), np.zeros((2, 2)))


def test_no_logit_overflows() -> None:
    assert np.isfinite(binary_cross_entropies(np.array([[1, 0]]), np.array([[-1e4, 1e4]]))).all()
