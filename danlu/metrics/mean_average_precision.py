"""The mean over classes of the average precision: how well each class's pictures are ranked before all others."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from danlu.core.records import result
from danlu.metrics import METRICS
from danlu.metrics.label_sets import ROUNDS, Matrix, checked

__all__ = ["average_precisions", "mean_average_precision"]

# So many numbers are held at a time while pictures are drawn again.
_HELD = 2_000_000


def average_precisions(truth: NDArray[np.bool_], scores: Matrix) -> Matrix:
    """Return AP = Σ (Rₙ - Rₙ₋₁) Pₙ of each class [K] over the thresholds n; NaN for a class without pictures.

    Pictures of equal scores share a threshold, so that their order does not matter.
    """
    return _weighted(truth, scores, np.ones((1, len(truth)), dtype=np.int64)).reshape(-1)


def _weighted(truth: NDArray[np.bool_], scores: Matrix, weights: NDArray[np.int64]) -> Matrix:
    """Return AP [R, K] where picture n counts ``weights[r, n]`` times; each class is sorted once for all R."""
    found = np.full((len(weights), truth.shape[1]), np.nan)
    for k in range(truth.shape[1]):
        order = np.argsort(-scores[:, k], kind="stable")
        last = np.append(np.flatnonzero(np.diff(scores[order, k])), len(order) - 1)
        ranked = weights[:, order]
        seen = np.cumsum(ranked, axis=1)[:, last]
        hits = np.cumsum(ranked * truth[order, k], axis=1)[:, last]
        some = hits[:, -1] > 0
        seen, hits = seen[some], hits[some]
        gained = np.diff(hits, axis=1, prepend=0) / hits[:, -1:]
        found[some, k] = (gained * hits / np.maximum(seen, 1)).sum(axis=1)
    return found


def mean_average_precision(labels: ArrayLike, scores: ArrayLike) -> dict[str, Any]:
    """Return mAP in [0, 1] over the classes that have pictures, with its 95 % interval.

    The interval is the bootstrap's, mirrored at the figure ("basic"): a picture drawn twice stands beside itself in the
    ranking and lifts AP, most of all where classes are rare, and the figure of a sample lies above that of all pictures
    in the same way.

    Args:
        labels: [N, K] of 0 and 1.
        scores: [N, K], the larger the surer; logits or probabilities.

    Raises:
        ValueError: shapes that differ, nothing to count, or no class with a picture.
    """
    truth, values = checked(labels, scores)
    n = len(truth)
    found = average_precisions(truth, values)
    if np.isnan(found).all():
        raise ValueError("no class has a picture: the figure is not defined")
    value = float(np.nanmean(found))
    draw, drawn = np.random.default_rng(0), list[float]()
    while len(drawn) < ROUNDS:
        count = min(ROUNDS - len(drawn), max(1, _HELD // n))
        weights = np.stack([np.bincount(draw.integers(0, n, n), minlength=n) for _ in range(count)])
        again = _weighted(truth, values, weights)
        # Where no class of a draw has a picture, the draw says nothing: the figure itself takes its place.
        again[np.isnan(again).all(axis=1)] = value
        drawn += np.nanmean(again, axis=1).tolist()
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    return result(value, n, max(0.0, min(value, 2 * value - high)), min(1.0, max(value, 2 * value - low)))


METRICS.register(
    "mean_average_precision",
    mean_average_precision,
    __name__,
    title="mean average precision",
    takes="label_scores",
    direction="max",
    unit="share",
)
