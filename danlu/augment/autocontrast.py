"""Autocontrast: the levels of a share of the pictures are stretched to the whole range, channel by channel."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.levels import autocontrast
from danlu.augment.pixelwise import Pixelwise

__all__ = ["Autocontrast"]


class Autocontrast(Pixelwise):
    """Least level of a channel to 0, greatest to 255; a channel of one level stays."""

    probability: float = Field(default=0.5, ge=0.0, le=1.0)

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures stretched."""
        return autocontrast(pictures)


AUGMENTATIONS.register("autocontrast", Autocontrast, __name__, title="levels stretched to 0…255", geometric=False)
