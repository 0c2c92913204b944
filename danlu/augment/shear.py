"""Shear: each picture is slanted about its middle by angles drawn for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Resampled
from danlu.augment.matrices import affine_matrices

__all__ = ["Shear"]


class Shear(Resampled):
    """Slant by up to ``x`` degrees along the rows and ``y`` degrees along the columns each way, uniformly."""

    x: float = Field(default=10.0, ge=0.0, lt=90.0)
    y: float = Field(default=0.0, ge=0.0, lt=90.0)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] that slant about the middle."""
        return affine_matrices(sizes, shear=(draws.between(-self.x, self.x, "x"), draws.between(-self.y, self.y, "y")))


AUGMENTATIONS.register("shear", Shear, __name__, title="slanted about the middle", geometric=True)
