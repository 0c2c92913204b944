"""F1 over all pairs of picture and class: 2 · found / (there + decided)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from danlu.metrics import METRICS
from danlu.metrics.label_sets import checked, class_f1, resampled

__all__ = ["f1_micro"]


def f1_micro(labels: ArrayLike, decisions: ArrayLike) -> dict[str, Any]:
    """Return F1 over all decisions together, in [0, 1], with its 95 % interval; 1 where there is nothing to find.

    Args:
        labels: [N, K] of 0 and 1.
        decisions: [N, K] of 0 and 1.

    Raises:
        ValueError: shapes that differ, or nothing to count.
    """
    truth, values = checked(labels, decisions)
    decided = values > 0.5

    def figure(chosen: NDArray[np.int64]) -> float:
        hits, there, called = (float(counts.sum()) for counts in class_f1(truth[chosen], decided[chosen]))
        return 2 * hits / (there + called) if there + called else 1.0

    return resampled(figure, len(truth))


METRICS.register(
    "f1_micro", f1_micro, __name__, title="F1 over all decisions", takes="label_sets", direction="max", unit="share"
)
