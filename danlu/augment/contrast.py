"""Contrast: all levels of a picture move towards its mean grey level or away from it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.levels import adjust_contrast
from danlu.augment.pixelwise import Pixelwise

__all__ = ["Contrast"]


class Contrast(Pixelwise):
    """Blend with the mean grey level: a factor of 0 is flat grey, 1 changes nothing, above 1 is more contrast."""

    amount: float = Field(default=0.4, ge=0.0, le=10.0)

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the factors [B], uniform in [1 - amount, 1 + amount) and never below 0."""
        return draws.between(max(0.0, 1.0 - self.amount), 1.0 + self.amount, "factor")

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures with contrast ``values`` [n]."""
        return adjust_contrast(pictures, values)


AUGMENTATIONS.register("contrast", Contrast, __name__, title="levels drawn to or from their mean", geometric=False)
