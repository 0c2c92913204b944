"""Solarize: the levels at or above a threshold become their negatives in a share of the pictures."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.levels import solarize
from danlu.augment.pixelwise import Pixelwise

__all__ = ["Solarize"]


class Solarize(Pixelwise):
    """Invert the levels at or above ``threshold``."""

    probability: float = Field(default=0.5, ge=0.0, le=1.0)
    threshold: float = Field(default=128.0, ge=0.0, le=255.0)

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the thresholds [B], all alike."""
        return np.full(len(sizes), self.threshold)

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the levels inverted at or above ``values`` [n]."""
        return solarize(pictures, values)


AUGMENTATIONS.register("solarize", Solarize, __name__, title="bright levels inverted", geometric=False)
