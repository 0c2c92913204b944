"""The mean negative log-probability of the label, in nats, with the interval of a mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from danlu.core.records import result
from danlu.metrics import METRICS
from danlu.metrics.accuracy import Z_95

__all__ = ["binary_cross_entropies", "cross_entropies", "cross_entropy", "log_softmax", "mean_result"]


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Return log-probabilities [N, K] for logits [N, K], without overflow."""
    values = np.asarray(logits, dtype=np.float64)
    shifted = values - values.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)


def cross_entropies(labels: ArrayLike, log_probabilities: ArrayLike) -> NDArray[np.float64]:
    """Return the negative log-probability of each label, in nats [N].

    Raises:
        ValueError: shapes that do not fit, a label out of range, or a value that is no log-probability.
    """
    truth = np.asarray(labels, dtype=np.int64)
    values = np.asarray(log_probabilities, dtype=np.float64)
    if values.ndim != 2 or truth.shape != values.shape[:1]:
        raise ValueError(f"labels {truth.shape} and log-probabilities {values.shape}: must be [N] and [N, K]")
    if len(truth) and not (truth.min() >= 0 and truth.max() < values.shape[1]):
        raise ValueError(f"labels from {truth.min()} to {truth.max()}: must be within 0 … {values.shape[1] - 1}")
    if np.isnan(values).any() or (values > 1e-6).any():
        raise ValueError("log-probabilities must be numbers of at most 0")
    return np.asarray(-values[np.arange(len(truth)), truth], dtype=np.float64)


def cross_entropy(labels: ArrayLike, log_probabilities: ArrayLike) -> dict[str, Any]:
    """Return the mean over pictures in nats, with the 95 % interval mean ± 1.96 s / √n (normal approximation).

    Args:
        labels: integers [N] in 0 … K - 1.
        log_probabilities: [N, K]; :func:`log_softmax` makes them from logits.

    Raises:
        ValueError: what :func:`cross_entropies` refuses, or nothing to average.
    """
    return mean_result(cross_entropies(labels, log_probabilities))


def binary_cross_entropies(labels: ArrayLike, logits: ArrayLike) -> NDArray[np.float64]:
    """Return for labels [N, K] of 0 and 1 and logits [N, K] the sum over classes of -log p(label), in nats [N]."""
    truth, values = np.asarray(labels, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or truth.shape != values.shape:
        raise ValueError(f"labels {truth.shape} and logits {values.shape}: both must be [N, K]")
    # log(1 + exp(x)) without overflow, minus x where the label is 1.
    return np.asarray((np.logaddexp(0.0, values) - truth * values).sum(axis=1), dtype=np.float64)


def mean_result(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return the mean of losses [N] with its interval; see :func:`cross_entropy`.

    Raises:
        ValueError: nothing to average.
    """
    if not len(values):
        raise ValueError("cross-entropy of no pictures")
    mean = float(values.mean())
    if len(values) == 1:
        return result(mean, 1)  # one value has no spread to estimate
    half = Z_95 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return result(mean, len(values), max(0.0, mean - half), mean + half)


METRICS.register(
    "cross_entropy",
    cross_entropy,
    __name__,
    title="cross-entropy",
    takes="log_probabilities",
    direction="min",
    unit="nats",
)
