"""Hue: all colours of a picture turn by one angle on the colour circle."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.colours import adjust_hue
from danlu.augment.pixelwise import Coloured

__all__ = ["Hue"]


class Hue(Coloured):
    """Turn by up to ``amount`` of the whole circle each way."""

    amount: float = Field(default=0.1, ge=0.0, le=0.5)

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the turns [B], uniform in [-amount, amount)."""
        return draws.between(-self.amount, self.amount, "turn")

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the colours turned by ``values`` [n]."""
        return adjust_hue(pictures, values)


AUGMENTATIONS.register("hue", Hue, __name__, title="colours turned on the circle", geometric=False)
