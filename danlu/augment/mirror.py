"""What the flips share: a matrix that turns one axis around for a share of the pictures."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment.base import Draws, Geometric, identity

__all__ = ["Mirror", "mirrors"]


class Mirror(Geometric):
    """Mirror a share ``probability`` of the pictures along :attr:`axis`."""

    # The row of the matrix: 0 turns x around, 1 turns y around.
    axis: ClassVar[int]

    probability: float = Field(default=0.5, ge=0.0, le=1.0)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] that mirror a share of the pictures: x' = W - x, or y' = H - y."""
        return mirrors(draws.uniform("mirror") < self.probability, sizes, self.axis)

    def sampling(self) -> None:
        """Return ``None``: a mirror joins the resampling of its neighbours."""


def mirrors(chosen: NDArray[np.bool_], sizes: NDArray[np.int64], axis: int) -> NDArray[np.float64]:
    """Return matrices [B, 3, 3] that turn ``axis`` (0: x, 1: y) around for the ``chosen`` [B] of ``sizes`` [B, 2]."""
    matrices = identity(len(sizes))
    matrices[chosen, axis, axis] = -1.0
    matrices[chosen, axis, 2] = sizes[chosen, 1 - axis]
    return matrices
