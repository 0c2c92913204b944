"""What is shared by the figures over several labels a picture: checks, counts, and intervals by resampling pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from danlu.core.records import result

__all__ = ["ROUNDS", "Matrix", "checked", "class_f1", "resampled"]

ROUNDS = 200

Matrix = NDArray[np.float64]


def checked(labels: ArrayLike, outputs: ArrayLike) -> tuple[NDArray[np.bool_], Matrix]:
    """Return labels [N, K] and outputs [N, K].

    Raises:
        ValueError: shapes that differ, labels other than 0 and 1, or nothing to count.
    """
    truth, values = np.asarray(labels), np.asarray(outputs, dtype=np.float64)
    if truth.ndim != 2 or truth.shape != values.shape:
        raise ValueError(f"labels {truth.shape} and outputs {values.shape}: both must be [N, K]")
    if not truth.size or ((truth != 0) & (truth != 1)).any():
        raise ValueError("labels must be 0 or 1, of at least one picture and class")
    return truth.astype(bool), values


def class_f1(truth: NDArray[np.bool_], decided: NDArray[np.bool_]) -> tuple[Matrix, Matrix, Matrix]:
    """Return of each class [K] how often it was found, was there, and was decided."""
    hits, there, called = (truth & decided).sum(0), truth.sum(0), decided.sum(0)
    return hits.astype(np.float64), there.astype(np.float64), called.astype(np.float64)


def resampled(figure: Callable[[NDArray[np.int64]], float | None], n: int) -> dict[str, Any]:
    """Return a figure of ``n`` pictures with the 95 % interval of its bootstrap (Efron 1979), drawn alike every time.

    Args:
        figure: indices of pictures -> the figure, None where these pictures do not define it.
        n: pictures.
    """
    value = figure(np.arange(n))
    draw = np.random.default_rng(0)
    drawn = [figure(draw.integers(0, n, n)) for _ in range(ROUNDS)]
    known = [one for one in drawn if one is not None]
    if value is None or not known:
        raise ValueError("no class has a picture: the figure is not defined")
    low, high = np.percentile(known, [2.5, 97.5]).tolist()
    # Resampling cannot see beyond what was measured; the figure itself is always within.
    return result(value, n, min(low, value), max(high, value))
