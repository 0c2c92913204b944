"""Medians, percentiles and their intervals by order statistics. Needs numpy alone.

The chance that fewer than k of n values fall below the true q-quantile is binomial, whatever the distribution, so two
of the sorted values bound it (Conover, Practical Nonparametric Statistics, 1999, section 3.2). Successive latencies of
one machine are not quite independent, so intervals of single calls are a little too narrow; those over repeats, which
rotate, are the ones to judge by.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["median_interval", "percentile", "percentile_interval"]


def percentile(values: ArrayLike, percent: float) -> float:
    """Return the smallest of ``values`` that at least ``percent`` per cent of them do not exceed (the nearest rank).

    Raises:
        ValueError: no values, or a percentage outside (0, 100].
    """
    ordered = _ordered(values)
    if not 0 < percent <= 100:
        raise ValueError(f"percent = {percent}, allowed: above 0, at most 100")
    # The tolerance keeps 99 % of 100 at 99 although 0.99 is a little more than that in binary.
    return float(ordered[max(math.ceil(percent / 100 * len(ordered) - 1e-9), 1) - 1])


def percentile_interval(
    values: ArrayLike, percent: float, confidence: float = 0.95
) -> tuple[float, float | None, float | None]:
    """Return a percentile of ``values`` [n] and an interval for the true one that assumes no distribution.

    An end is None where so few values cannot bound that side with the confidence asked for: no finite number is an
    upper bound of the 99th percentile with fewer than 368 values.
    """
    ordered = _ordered(values)
    n, tail = len(ordered), (1 - confidence) / 2
    below = _binomial_cdf(n, percent / 100)  # below[k]: the chance of at most k values below the true one
    low = int(np.searchsorted(below, tail, side="right"))  # the largest rank with below[rank - 1] <= tail
    high = int(np.searchsorted(below, 1 - tail)) + 1  # the smallest rank with below[rank - 1] >= 1 - tail
    return (
        percentile(ordered, percent),
        float(ordered[low - 1]) if low >= 1 else None,
        float(ordered[high - 1]) if high <= n else None,
    )


def median_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the median of ``values`` [n] and an interval for the true median that assumes no distribution.

    With fewer than six values it is their whole range, whose confidence is lower than 95 %.
    """
    ordered = _ordered(values)
    _, low, high = percentile_interval(ordered, 50, confidence)
    first, last = float(ordered[0]), float(ordered[-1])
    return float(np.median(ordered)), first if low is None else low, last if high is None else high


def _ordered(values: ArrayLike) -> NDArray[np.float64]:
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if not len(ordered):
        raise ValueError("no values")
    return ordered


def _binomial_cdf(n: int, q: float) -> NDArray[np.float64]:
    """Return P(at most k of n) for k = 0 … n, each with chance ``q`` in (0, 1), by logarithms."""
    k = np.arange(n + 1)
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    log_chance = log_factorial[n] - log_factorial[k] - log_factorial[n - k] + k * math.log(q) + (n - k) * math.log1p(-q)
    cdf = np.minimum(np.cumsum(np.exp(log_chance)), 1.0)
    cdf[-1] = 1.0
    return np.asarray(cdf, dtype=np.float64)
