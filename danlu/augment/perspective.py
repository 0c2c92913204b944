"""Perspective: each corner of the picture moves inwards by its own random amount, as if seen from aside."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Resampled, identity
from danlu.augment.matrices import perspective_matrices

__all__ = ["Perspective"]

_CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


class Perspective(Resampled):
    """Move each corner inwards by up to ``distortion`` of half a side.

    Corners are those of the picture's area, (0, 0) to (W, H), and move by fractions of pixels.
    """

    distortion: float = Field(default=0.5, ge=0.0, lt=1.0)
    probability: float = Field(default=0.5, ge=0.0, le=1.0)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] that take the four corners to where they were drawn."""
        matrices = identity(len(sizes))
        chosen = draws.uniform("chosen") < self.probability
        inwards = np.stack([draws.uniform(f"{axis}-{k}") for k in range(4) for axis in "xy"], axis=1).reshape(-1, 4, 2)
        sides = sizes[:, None, ::-1].astype(np.float64)
        start = _CORNERS * sides
        end = start + (1.0 - 2.0 * _CORNERS) * inwards * self.distortion * sides / 2
        matrices[chosen] = perspective_matrices(start[chosen], end[chosen])
        return matrices


AUGMENTATIONS.register("perspective", Perspective, __name__, title="corners moved inwards", geometric=True)
