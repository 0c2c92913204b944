"""Rotate: each picture is turned about its middle by an angle drawn for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Resampled
from danlu.augment.matrices import affine_matrices

__all__ = ["Rotate"]


class Rotate(Resampled):
    """Turn by up to ``degrees`` each way, uniformly."""

    degrees: float = Field(default=15.0, gt=0.0, le=180.0)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] that turn by angles in [-degrees, degrees)."""
        return affine_matrices(sizes, angle=draws.between(-self.degrees, self.degrees, "angle"))


AUGMENTATIONS.register("rotate", Rotate, __name__, title="turned about the middle", geometric=True)
