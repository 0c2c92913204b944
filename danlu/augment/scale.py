"""Scale: each picture is enlarged or shrunk about its middle by a factor drawn for it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Resampled
from danlu.augment.matrices import affine_matrices

__all__ = ["Scale"]


class Scale(Resampled):
    """Scale by a factor in [low, high), uniformly; below 1 the picture shrinks and ``fill`` surrounds it."""

    low: float = Field(default=0.8, gt=0.0, le=100.0)
    high: float = Field(default=1.2, gt=0.0, le=100.0)

    @model_validator(mode="after")
    def _ordered(self) -> Scale:
        if self.low > self.high:
            raise ValueError("low is at most high")
        return self

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] that scale about the middle."""
        return affine_matrices(sizes, scale=draws.between(self.low, self.high, "factor"))


AUGMENTATIONS.register("scale", Scale, __name__, title="enlarged or shrunk about the middle", geometric=True)
