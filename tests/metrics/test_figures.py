"""Every figure against closed forms and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from danlu.metrics.accuracy import Z_95, accuracy, wilson_interval
from danlu.metrics.confusion_matrix import confusion_matrix
from danlu.metrics.cross_entropy import cross_entropies, cross_entropy, log_softmax
from danlu.metrics.precision_recall_f1 import precision_recall_f1


@pytest.mark.parametrize(("right", "n"), [(0, 5), (1, 5), (3, 5), (5, 5), (353, 360), (9_931, 10_000), (1, 1)])
def test_wilson_solves_its_equation(right: int, n: int) -> None:
    """The ends of the interval are the roots of (p - k/n)² = z² p (1 - p) / n."""
    low, high = wilson_interval(right, n)
    share, z2 = right / n, Z_95**2
    roots = np.sort(np.roots([1 + z2 / n, -2 * share - z2 / n, share**2]).real)
    assert (low, high) == pytest.approx(tuple(roots), abs=1e-12)
    assert 0 <= low <= share <= high <= 1
    assert low < high


def test_wilson_known_value() -> None:
    """10 of 100, the textbook's example: 5.52 % to 17.44 %."""
    assert wilson_interval(10, 100) == pytest.approx((0.05523, 0.17437), abs=5e-5)


def test_wilson_edges() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == 1.0
    for right, n in ((-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="must be within"):
            wilson_interval(right, n)


def test_wilson_covers() -> None:
    """Of 4,000 repetitions of 50 draws at p = 0.95 about 95 % hold p; the textbook interval holds it in under 93 %."""
    draws = np.random.default_rng(0).binomial(50, 0.95, size=4_000)
    covered = [low <= 0.95 <= high for low, high in (wilson_interval(int(k), 50) for k in draws)]
    assert 0.94 <= np.mean(covered) <= 0.99


def test_accuracy() -> None:
    figure = accuracy([0, 1, 2, 1], [0, 1, 1, 1])
    assert figure["value"] == 0.75
    assert figure["n"] == 4
    assert (figure["low"], figure["high"]) == wilson_interval(3, 4)
    with pytest.raises(ValueError, match="no pictures"):
        accuracy([], [])
    with pytest.raises(ValueError, match="both must be"):
        accuracy([0, 1], [0])


def _sample(seed: int, n: int = 400, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    predictions = np.where(rng.random(n) < 0.7, labels, rng.integers(0, classes, n))
    return labels, predictions


@pytest.mark.parametrize("seed", range(3))
def test_confusion_matrix_against_sklearn(seed: int) -> None:
    from sklearn.metrics import confusion_matrix as reference

    labels, predictions = _sample(seed)
    found = confusion_matrix(labels, predictions, 6)
    assert found.dtype == np.int64
    assert (found == reference(labels, predictions, labels=range(6))).all()


def test_confusion_matrix_axes_and_refusals() -> None:
    assert confusion_matrix([0], [2], 3).tolist() == [[0, 0, 1], [0, 0, 0], [0, 0, 0]]
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]
    for labels, predictions in (([3], [0]), ([0], [3]), ([-1], [0])):
        with pytest.raises(ValueError, match="must be within"):
            confusion_matrix(labels, predictions, 3)
    with pytest.raises(ValueError, match="both must be"):
        confusion_matrix([0, 1], [0], 2)


@pytest.mark.parametrize("seed", range(3))
def test_precision_recall_f1_against_sklearn(seed: int) -> None:
    from sklearn.metrics import precision_recall_fscore_support as reference

    labels, predictions = _sample(seed)
    predictions[predictions == 4] = 0  # a class that is never predicted
    labels[labels == 5] = 1  # and one without pictures
    rows = precision_recall_f1(labels, predictions, list("abcdef"))
    expected = reference(labels, predictions, labels=range(6), zero_division=0.0)
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[key] for row in rows] == pytest.approx(values.tolist(), abs=1e-12)
    assert [row["class"] for row in rows] == list("abcdef")
    assert [row["note"] for row in rows] == ["", "", "", "", "never predicted", "no pictures"]
    assert [row["predicted"] for row in rows] == np.bincount(predictions, minlength=6).tolist()


def test_a_class_that_is_neither_there_nor_predicted() -> None:
    row = precision_recall_f1([0], [0], ["a", "b"])[1]
    assert (row["precision"], row["recall"], row["f1"]) == (0.0, 0.0, 0.0)
    assert row["note"] == "never predicted, no pictures"


def test_log_softmax_against_scipy() -> None:
    from scipy.special import log_softmax as reference

    logits = np.random.default_rng(0).normal(size=(50, 7)) * 30
    assert np.abs(log_softmax(logits) - reference(logits, axis=1)).max() < 1e-12
    assert np.isfinite(log_softmax([[1e30, -1e30]])).all()


def test_cross_entropy_against_sklearn() -> None:
    from sklearn.metrics import log_loss

    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=(300, 5)), rng.integers(0, 5, 300)
    figure = cross_entropy(labels, log_softmax(logits))
    probabilities = np.exp(log_softmax(logits))
    assert figure["value"] == pytest.approx(log_loss(labels, probabilities, labels=range(5)), abs=1e-12)
    losses = -np.log(probabilities[np.arange(300), labels])
    half = 1.959964 * losses.std(ddof=1) / np.sqrt(300)
    assert figure["high"] - figure["value"] == pytest.approx(half, rel=1e-6)
    assert figure["value"] - figure["low"] == pytest.approx(half, rel=1e-6)
    assert figure["n"] == 300


def test_cross_entropy_edges() -> None:
    assert cross_entropy([1], log_softmax([[0.0, 0.0]])) == {
        "value": pytest.approx(np.log(2)),
        "low": None,
        "high": None,
        "n": 1,
    }
    perfect = cross_entropy([0, 1], log_softmax([[100.0, 0.0], [0.0, 100.0]]))
    assert perfect["value"] == pytest.approx(0.0, abs=1e-12)
    assert perfect["low"] >= 0
    for labels, values, words in (
        ([], np.zeros((0, 2)), "no pictures"),
        ([2], [[-1.0, -1.0]], "must be within"),
        ([0], [[0.5, -1.0]], "at most 0"),
        ([0], [[np.nan, -1.0]], "at most 0"),
        ([0, 1], [[-1.0, -1.0]], "must be"),
    ):
        with pytest.raises(ValueError, match=words):
            cross_entropy(labels, values)
    assert cross_entropies([0], [[-0.5, -1.0]]).tolist() == [0.5]
