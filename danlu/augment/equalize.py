"""Equalize: a share of the pictures gets a flat histogram, channel by channel."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.levels import equalize
from danlu.augment.pixelwise import Pixelwise

__all__ = ["Equalize"]


class Equalize(Pixelwise):
    """Spread the levels of each channel so that each is about equally frequent, as Pillow does it."""

    probability: float = Field(default=0.5, ge=0.0, le=1.0)

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures equalized."""
        return equalize(pictures)


AUGMENTATIONS.register("equalize", Equalize, __name__, title="histogram made flat", geometric=False)
