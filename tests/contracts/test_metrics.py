"""What every registered metric promises."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from danlu.metrics import METRICS

CLASSES = ["a", "b", "c"]
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])
WORSE = np.array([0, 1, 2, 0, 2, 1, 1, 0])


SEVERAL = ("label_sets", "label_scores")


def _pairs(classes: np.ndarray) -> np.ndarray:
    sets = np.eye(3, dtype=np.int64)[classes]
    return sets | np.roll(sets, 1, axis=1)


def call(name: str, predictions: np.ndarray, labels: np.ndarray = LABELS) -> Any:
    """Call a metric with what its facts say it takes; the predicted class gets probability 0.8."""
    facts, metric = METRICS.index[name], METRICS.get(name)
    if facts["takes"] in SEVERAL:
        # Of several labels a picture: each has the class before its own too, and both are answered together.
        return metric(_pairs(labels), _pairs(predictions))
    if facts["takes"] == "log_probabilities":
        probabilities = np.full((len(predictions), 3), 0.1)
        probabilities[np.arange(len(predictions)), predictions] = 0.8
        return metric(labels, np.log(probabilities))
    arguments = {"confusion_matrix": (3,), "precision_recall_f1": (CLASSES,)}.get(name, ())
    return metric(labels, predictions, *arguments)


@pytest.mark.parametrize("name", METRICS.names())
def test_facts(name: str) -> None:
    facts = METRICS.index[name]
    assert facts["takes"] in ("predictions", "log_probabilities", *SEVERAL)
    assert facts["direction"] in ("max", "min", None)
    assert facts["title"]
    assert facts["unit"]


@pytest.mark.parametrize("name", METRICS.names())
def test_values_are_plain_and_finite(name: str) -> None:
    value = call(name, np.zeros(8, dtype=np.int64))  # two classes are never predicted
    json.dumps(value.tolist() if isinstance(value, np.ndarray) else value, allow_nan=False)


@pytest.mark.parametrize("name", [name for name in METRICS.names() if METRICS.index[name]["direction"]])
def test_direction_and_interval(name: str) -> None:
    best, worse = call(name, LABELS), call(name, WORSE)
    better = (
        best["value"] > worse["value"] if METRICS.index[name]["direction"] == "max" else best["value"] < worse["value"]
    )
    assert better
    assert worse["low"] <= worse["value"] <= worse["high"]
    assert worse["n"] == 8


@pytest.mark.parametrize("name", METRICS.names())
def test_order_does_not_matter(name: str) -> None:
    order = np.random.default_rng(0).permutation(8)
    mixed, plain = call(name, WORSE[order], LABELS[order]), call(name, WORSE)
    if METRICS.index[name]["takes"] in SEVERAL:
        # Their intervals are those of pictures drawn again, in the order they stand.
        mixed, plain = mixed["value"], plain["value"]
    assert str(mixed) == str(plain)


@pytest.mark.parametrize("name", METRICS.names())
def test_lengths_that_differ_are_refused(name: str) -> None:
    facts, metric = METRICS.index[name], METRICS.get(name)
    outputs = np.zeros((3, 3)) if facts["takes"] == "log_probabilities" else np.zeros(3, dtype=np.int64)
    arguments = {"confusion_matrix": (3,), "precision_recall_f1": (CLASSES,)}.get(name, ())
    with pytest.raises(ValueError, match="must be"):
        metric(LABELS, outputs, *arguments)


def test_the_index_is_fresh() -> None:
    assert METRICS.build_index() == {name: dict(facts) for name, facts in METRICS.index.items()}
