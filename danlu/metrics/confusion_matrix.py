"""Which class was taken for which."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from danlu.metrics import METRICS

__all__ = ["confusion_matrix"]


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Return counts [K, K]: row = true class, column = predicted class.

    Args:
        labels: integers [N] in 0 … K - 1.
        predictions: integers [N] in 0 … K - 1.
        classes: K.

    Raises:
        ValueError: lengths that differ, or a class out of range.
    """
    truth = np.asarray(labels, dtype=np.int64)
    predicted = np.asarray(predictions, dtype=np.int64)
    if truth.ndim != 1 or truth.shape != predicted.shape:
        raise ValueError(f"labels {truth.shape} and predictions {predicted.shape}: both must be [N]")
    for name, values in (("labels", truth), ("predictions", predicted)):
        if len(values) and not (values.min() >= 0 and values.max() < classes):
            raise ValueError(f"{name} from {values.min()} to {values.max()}: must be within 0 … {classes - 1}")
    counts = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


METRICS.register(
    "confusion_matrix",
    confusion_matrix,
    __name__,
    title="confusion matrix",
    takes="predictions",
    direction=None,
    unit="pictures",
)
