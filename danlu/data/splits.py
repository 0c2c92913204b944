"""The parts of a data set: the names they go by, and how missing ones are drawn (stratified, seeded, stable)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from danlu.core import seeds

__all__ = ["ORDER", "TEST_SHARE", "VALIDATION_SHARE", "draw_parts", "split_name"]

ORDER = ("all", "train", "validation", "test")
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.2

_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "t10k": "test",
    "all": "all",
}


def split_name(name: str) -> str | None:
    """Return the split a folder or file prefix stands for (``val`` → ``validation``), or None."""
    return _NAMES.get(name.casefold())


def _counts(members: int, shares: tuple[float, ...]) -> list[int]:
    """Return how many of ``members`` go into each part; the rest, always at least one, stays behind.

    Each part gets its rounded share and at least one where that is possible; the last part is served first.
    """
    counts = [0] * len(shares)
    for position in reversed(range(len(shares))):
        free = members - 1 - sum(counts)
        counts[position] = max(0, min(free, max(1, round(members * shares[position]))))
    return counts


def draw_parts(labels: NDArray[np.int64], shares: tuple[float, ...], seed: int) -> list[NDArray[np.int64]]:
    """Draw disjoint parts, stratified by class.

    Args:
        labels: int64 [N].
        shares: the share of each part to draw, e.g. ``(0.1, 0.2)``.
        seed: draws depend on it, on the class and on the order of the samples, on nothing else.

    Returns:
        ``len(shares) + 1`` sorted index arrays: what stays behind, then each drawn part.
    """
    part = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        shuffled = members[seeds.permutation(len(members), "data/split", seed, label)]
        begin = 0
        for number, count in enumerate(_counts(len(members), shares), start=1):
            part[shuffled[begin : begin + count]] = number
            begin += count
    return [np.flatnonzero(part == number) for number in range(len(shares) + 1)]
