"""Invert: a share of the pictures becomes its negative."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.levels import invert
from danlu.augment.pixelwise import Pixelwise

__all__ = ["Invert"]


class Invert(Pixelwise):
    """255 minus the level."""

    probability: float = Field(default=0.5, ge=0.0, le=1.0)

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the negatives."""
        return invert(pictures)


AUGMENTATIONS.register("invert", Invert, __name__, title="255 minus the level", geometric=False)
