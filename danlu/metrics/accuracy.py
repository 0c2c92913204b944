"""The share of pictures whose prediction is the label, with Wilson's interval.

Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference: for k of n right the interval solves
|p - k/n| = z √(p (1 - p) / n), so it stays in [0, 1] and does not shrink to nothing when all are right.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from danlu.core.records import result
from danlu.metrics import METRICS

__all__ = ["Z_95", "accuracy", "wilson_interval"]

# The 97.5 % point of the normal distribution: 95 % lie within ± this.
Z_95 = 1.959963984540054


def wilson_interval(right: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Return the interval of a share ``right`` / ``n``; (0, 1) when nothing was counted.

    Raises:
        ValueError: ``right`` is not within 0 … ``n``.
    """
    if not 0 <= right <= n:
        raise ValueError(f"right = {right}: must be within 0 … n = {n}")
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, z * z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # The exact ends are 0 and 1; rounding must not leave the unit interval.
    return (0.0 if right == 0 else max(0.0, centre - half)), (1.0 if right == n else min(1.0, centre + half))


def accuracy(labels: ArrayLike, predictions: ArrayLike) -> dict[str, Any]:
    """Return the share of ``predictions`` [N] that equal ``labels`` [N], in [0, 1], with its 95 % interval.

    Raises:
        ValueError: lengths that differ, or nothing to count.
    """
    truth, predicted = np.asarray(labels), np.asarray(predictions)
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise ValueError(f"labels {truth.shape} and predictions {predicted.shape}: both must be [N]")
    if not len(truth):
        raise ValueError("accuracy of no pictures")
    right = int((truth == predicted).sum())
    low, high = wilson_interval(right, len(truth))
    return result(right / len(truth), len(truth), low, high)


METRICS.register("accuracy", accuracy, __name__, title="accuracy", takes="predictions", direction="max", unit="share")
