"""Sharpness: a share of the pictures is blended with, or moved away from, a slight blur of itself."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.colours import adjust_sharpness
from danlu.augment.pixelwise import Pixelwise

__all__ = ["Sharpness"]


class Sharpness(Pixelwise):
    """A factor between 1 - ``amount`` (blurred, not below 0) and 1 + ``amount`` (sharpened)."""

    probability: float = Field(default=0.5, ge=0.0, le=1.0)
    amount: float = Field(default=0.9, ge=0.0, le=10.0)

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the factors [B], uniform."""
        return draws.between(max(0.0, 1.0 - self.amount), 1.0 + self.amount, "factor")

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures with sharpness ``values`` [n]."""
        return adjust_sharpness(pictures, values)


AUGMENTATIONS.register("sharpness", Sharpness, __name__, title="blurred or sharpened a little", geometric=False)
