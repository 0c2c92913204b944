"""Pad and crop: the picture is padded by zeros on each side and a window of its own size is cut at random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Geometric, identity

__all__ = ["PadCrop"]


class PadCrop(Geometric):
    """Shift by up to ``padding`` whole pixels each way; what comes from outside is 0."""

    padding: int = Field(default=4, ge=1, le=1024)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] that shift by whole pixels in [-padding, padding], all equally likely."""
        matrices = identity(len(sizes))
        matrices[:, 0, 2] = draws.integers(2 * self.padding + 1, "x") - self.padding
        matrices[:, 1, 2] = draws.integers(2 * self.padding + 1, "y") - self.padding
        return matrices


AUGMENTATIONS.register("pad_crop", PadCrop, __name__, title="zero padding, then a random crop", geometric=True)
