"""Saturation: all colours of a picture move towards grey or away from it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.colours import adjust_saturation
from danlu.augment.pixelwise import Coloured

__all__ = ["Saturation"]


class Saturation(Coloured):
    """Blend with the grey picture: a factor of 0 is grey, 1 changes nothing, above 1 is more colourful."""

    amount: float = Field(default=0.4, ge=0.0, le=10.0)

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the factors [B], uniform in [1 - amount, 1 + amount) and never below 0."""
        return draws.between(max(0.0, 1.0 - self.amount), 1.0 + self.amount, "factor")

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures with saturation ``values`` [n]."""
        return adjust_saturation(pictures, values)


AUGMENTATIONS.register("saturation", Saturation, __name__, title="colours drawn to or from grey", geometric=False)
