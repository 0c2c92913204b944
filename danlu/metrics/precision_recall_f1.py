"""Per class: how many of those called so are so (precision), how many of those that are so were found (recall)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from danlu.metrics import METRICS
from danlu.metrics.confusion_matrix import confusion_matrix

__all__ = ["precision_recall_f1"]


def precision_recall_f1(labels: ArrayLike, predictions: ArrayLike, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row a class: ``class``, ``precision``, ``recall``, ``f1``, ``support``, ``predicted``, ``note``.

    A class that was never predicted has precision 0, a class without pictures recall 0, never NaN; ``note`` says so and
    is empty otherwise. F1 is the harmonic mean, 0 where both are 0.

    Args:
        labels: integers [N] in 0 … K - 1.
        predictions: integers [N] in 0 … K - 1.
        classes: K names.

    Raises:
        ValueError: lengths that differ, or a class out of range.
    """
    counts = confusion_matrix(labels, predictions, len(classes))
    hits, support, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    rows = []
    for name, hit, there, called in zip(classes, hits.tolist(), support.tolist(), predicted.tolist(), strict=True):
        notes = ["never predicted"] * (not called) + ["no pictures"] * (not there)
        rows.append(
            {
                "class": name,
                "precision": hit / called if called else 0.0,
                "recall": hit / there if there else 0.0,
                "f1": 2 * hit / (there + called) if there + called else 0.0,
                "support": there,
                "predicted": called,
                "note": ", ".join(notes),
            }
        )
    return rows


METRICS.register(
    "precision_recall_f1",
    precision_recall_f1,
    __name__,
    title="precision, recall and F1 per class",
    takes="predictions",
    direction=None,
    unit="share",
)
