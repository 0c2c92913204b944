"""Translate: each picture is shifted by whole pixels, up to a share of its sides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Resampled
from danlu.augment.matrices import affine_matrices

__all__ = ["Translate"]


class Translate(Resampled):
    """Shift by up to the shares ``x`` of the width and ``y`` of the height each way, rounded to whole pixels."""

    x: float = Field(default=0.125, ge=0.0, le=1.0)
    y: float = Field(default=0.125, ge=0.0, le=1.0)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] that shift by whole pixels, so that pixels are copied, not blended."""
        x = np.rint(draws.between(-1.0, 1.0, "x") * self.x * sizes[:, 1])
        y = np.rint(draws.between(-1.0, 1.0, "y") * self.y * sizes[:, 0])
        return affine_matrices(sizes, translate=(x, y))


AUGMENTATIONS.register("translate", Translate, __name__, title="shifted by a share of its sides", geometric=True)
