"""Posterize: the lowest bits of all levels of a share of the pictures become 0."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.levels import posterize
from danlu.augment.pixelwise import Pixelwise

__all__ = ["Posterize"]


class Posterize(Pixelwise):
    """Keep ``bits`` of the eight bits of every level."""

    probability: float = Field(default=0.5, ge=0.0, le=1.0)
    bits: int = Field(default=4, ge=1, le=8)

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the bits [B], all alike."""
        return np.full(len(sizes), float(self.bits))

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the levels with their ``values`` [n] highest bits."""
        return posterize(pictures, values)


AUGMENTATIONS.register("posterize", Posterize, __name__, title="lowest bits set to 0", geometric=False)
