"""Horizontal flip: each picture is mirrored left to right with a given probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Geometric, identity

__all__ = ["Flip"]


class Flip(Geometric):
    """Mirror left to right. Not for digits and letters, whose mirror image is another sign."""

    probability: float = Field(default=0.5, ge=0.0, le=1.0)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] that mirror a share of the pictures: x' = W - x."""
        mirrored = draws.uniform("mirror") < self.probability
        matrices = identity(len(sizes))
        matrices[mirrored, 0, 0] = -1.0
        matrices[mirrored, 0, 2] = sizes[mirrored, 1]
        return matrices

    def sampling(self) -> None:
        """Return ``None``: a mirror joins the resampling of its neighbours."""


AUGMENTATIONS.register("flip", Flip, __name__, title="mirrored left to right", geometric=True)
