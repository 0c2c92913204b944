"""The mean over classes of the average precision: how well each class's pictures are ranked before all others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from danlu.metrics import METRICS
from danlu.metrics.label_sets import Matrix, checked, resampled

__all__ = ["average_precisions", "mean_average_precision"]


def average_precisions(truth: NDArray[np.bool_], scores: Matrix) -> Matrix:
    """Return AP = Σ (Rₙ - Rₙ₋₁) Pₙ of each class [K] over the thresholds n; NaN for a class without pictures.

    Pictures of equal scores share a threshold, so that their order does not matter.
    """
    found = np.full(truth.shape[1], np.nan)
    for k in range(truth.shape[1]):
        total = int(truth[:, k].sum())
        if not total:
            continue
        order = np.argsort(-scores[:, k], kind="stable")
        ranked, hits = scores[order, k], np.cumsum(truth[order, k])
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        precision, recall = hits[last] / (last + 1), hits[last] / total
        found[k] = float((np.diff(recall, prepend=0.0) * precision).sum())
    return found


def mean_average_precision(labels: ArrayLike, scores: ArrayLike) -> dict[str, Any]:
    """Return mAP in [0, 1] over the classes that have pictures, with its 95 % interval.

    Args:
        labels: [N, K] of 0 and 1.
        scores: [N, K], the larger the surer; logits or probabilities.

    Raises:
        ValueError: shapes that differ, nothing to count, or no class with a picture.
    """
    truth, values = checked(labels, scores)

    def figure(chosen: NDArray[np.int64]) -> float | None:
        found = average_precisions(truth[chosen], values[chosen])
        return float(np.nanmean(found)) if not np.isnan(found).all() else None

    return resampled(figure, len(truth))


METRICS.register(
    "mean_average_precision",
    mean_average_precision,
    __name__,
    title="mean average precision",
    takes="label_scores",
    direction="max",
    unit="share",
)
