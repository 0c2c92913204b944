"""Crop: a window of a given share of the picture is cut at random and stretched back to the picture's size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Resampled
from danlu.augment.matrices import window_matrices
from danlu.augment.warp import Fill

__all__ = ["Crop"]


class Crop(Resampled):
    """Cut a window whose sides are ``share`` of the picture's (whole pixels, at least one), anywhere inside it.

    ``fill`` matters at the picture's own edge alone, where half a pixel is looked up outside; repeating the edge keeps
    a dark rim away.
    """

    share: float = Field(default=0.875, gt=0.0, le=1.0)
    fill: Fill = "edge"

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] of windows whose whole-pixel places are all equally likely."""
        window = np.maximum(1, np.rint(sizes * self.share))
        free = sizes - window + 1
        place = np.floor(np.stack([draws.uniform("y"), draws.uniform("x")], axis=1) * free)
        return window_matrices(sizes, np.concatenate([place, window], axis=1))


AUGMENTATIONS.register("crop", Crop, __name__, title="a random window, stretched back", geometric=True)
