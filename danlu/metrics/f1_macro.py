"""F1 of each class, and their mean: rare classes count as much as frequent ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from danlu.metrics import METRICS
from danlu.metrics.label_sets import checked, class_f1, resampled

__all__ = ["f1_macro"]


def f1_macro(labels: ArrayLike, decisions: ArrayLike) -> dict[str, Any]:
    """Return the mean over classes of F1, in [0, 1], with its 95 % interval.

    A class that no picture has and that is never decided says nothing and is left out.

    Args:
        labels: [N, K] of 0 and 1.
        decisions: [N, K] of 0 and 1.

    Raises:
        ValueError: shapes that differ, nothing to count, or no class that says anything.
    """
    truth, values = checked(labels, decisions)
    decided = values > 0.5

    def figure(chosen: NDArray[np.int64]) -> float | None:
        hits, there, called = class_f1(truth[chosen], decided[chosen])
        told = there + called > 0
        return float((2 * hits[told] / (there + called)[told]).mean()) if told.any() else None

    return resampled(figure, len(truth))


METRICS.register(
    "f1_macro", f1_macro, __name__, title="mean of the classes' F1", takes="label_sets", direction="max", unit="share"
)
