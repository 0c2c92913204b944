"""Brightness: all levels of a picture times one factor."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.levels import adjust_brightness
from danlu.augment.pixelwise import Pixelwise

__all__ = ["Brightness"]


class Brightness(Pixelwise):
    """Multiply the levels by a factor between 1 - ``amount`` and 1 + ``amount``."""

    amount: float = Field(default=0.4, ge=0.0, le=10.0)

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the factors [B], uniform in [1 - amount, 1 + amount) and never below 0."""
        return draws.between(max(0.0, 1.0 - self.amount), 1.0 + self.amount, "factor")

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the levels times the factors ``values`` [n]."""
        return adjust_brightness(pictures, values)


AUGMENTATIONS.register("brightness", Brightness, __name__, title="levels times a factor", geometric=False)
