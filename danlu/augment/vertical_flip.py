"""Vertical flip: each picture is mirrored top to bottom with a given probability."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Geometric, identity

__all__ = ["VerticalFlip"]


class VerticalFlip(Geometric):
    """Mirror top to bottom, for pictures without an up: from above, through a microscope."""

    probability: float = Field(default=0.5, ge=0.0, le=1.0)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] that mirror a share of the pictures: y' = H - y."""
        mirrored = draws.uniform("mirror") < self.probability
        matrices = identity(len(sizes))
        matrices[mirrored, 1, 1] = -1.0
        matrices[mirrored, 1, 2] = sizes[mirrored, 0]
        return matrices

    def sampling(self) -> None:
        """Return ``None``: a mirror joins the resampling of its neighbours."""


AUGMENTATIONS.register("vertical_flip", VerticalFlip, __name__, title="mirrored top to bottom", geometric=True)
