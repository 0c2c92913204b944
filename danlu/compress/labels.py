"""Labels that follow channels through a network: equal labels must be kept or removed together.

Every output channel of a convolution or linear layer starts with a label of its own, a number. An array of labels
stands beside each tensor; along an axis on which it does not depend it has length 1. Label 0 says: stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Ties", "compress", "expand", "varying"]

Array = NDArray[np.int64]


class Ties:
    """Which labels belong together: a union-find whose class of label 0 is what must stay."""

    def __init__(self) -> None:
        self._parent = np.zeros(1024, dtype=np.int64)
        self._count = 1
        self.reasons: list[tuple[frozenset[int], str]] = []

    def fresh(self, shape: Sequence[int]) -> Array:
        """Return new labels of ``shape``, each in a class of its own."""
        number = int(np.prod(shape, dtype=np.int64))
        while self._count + number > len(self._parent):
            self._parent = np.concatenate([self._parent, np.zeros_like(self._parent)])
        made = np.arange(self._count, self._count + number, dtype=np.int64)
        self._parent[made] = made
        self._count += number
        return made.reshape(tuple(shape))

    def roots(self, labels: Array) -> Array:
        """Return for each label the one that stands for its class."""
        found = self._parent[labels]
        while True:
            above = self._parent[found]
            if np.array_equal(above, found):
                return found
            found = above

    def tie(self, one: Array, other: Array) -> None:
        """Put ``one[i]`` and ``other[i]`` into one class, for all i of two arrays that broadcast."""
        one, other = np.broadcast_arrays(self.roots(one), self.roots(other))
        apart = one != other
        if not apart.any():
            return
        for a, b in {*zip(one[apart].tolist(), other[apart].tolist(), strict=True)}:
            low, high = sorted((self._root(a), self._root(b)))
            self._parent[high] = low

    def _root(self, label: int) -> int:
        while (above := int(self._parent[label])) != label:
            self._parent[label] = self._parent[above]
            label = above
        return label

    def along(self, labels: Array, axis: int) -> None:
        """Tie everything that differs only in its place on ``axis``."""
        self.tie(labels, labels.take([0], axis=axis))

    def freeze(self, labels: Array, reason: str) -> None:
        """Keep all of ``labels``; ``reason`` names the layer and why."""
        frozen = frozenset(np.unique(labels).tolist()) - {0}
        if frozen:
            self.reasons.append((frozen, reason))
            self.tie(labels, np.zeros(1, dtype=np.int64))

    def reason(self, labels: Array) -> str:
        """Return why ``labels`` are kept, empty when some may go."""
        if self.roots(labels).any():
            return ""
        mine = set(np.unique(labels).tolist())
        direct = [reason for frozen, reason in self.reasons if mine & frozen]
        return direct[0] if direct else "tied to channels that stay"


def varying(labels: Array) -> list[int]:
    """Return the axes on which ``labels`` depend."""
    return [axis for axis, size in enumerate(labels.shape) if size > 1]


def expand(labels: Array, shape: Sequence[int]) -> Array:
    """Return ``labels`` as an array of the tensor's ``shape``, without copying."""
    wide: Array = np.broadcast_to(labels, tuple(shape))
    return wide


def compress(labels: Any) -> Array:
    """Return ``labels`` with length 1 along the axes on which they do not depend."""
    labels = np.asarray(labels, dtype=np.int64)
    for axis, size in enumerate(labels.shape):
        if size > 1:
            first = labels.take([0], axis=axis)
            if (labels == first).all():
                labels = first
    found: Array = labels
    return found
