"""Pad and crop: the picture is padded on each side and a window of its own size is cut at random."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Geometric, identity
from danlu.augment.warp import PLAIN, Sampling

__all__ = ["PadCrop"]


class PadCrop(Geometric):
    """Shift by up to ``padding`` whole pixels each way.

    Args:
        padding: pixels added on each side.
        mode: what comes from outside: ``zeros``; the nearest pixel of the ``edge``; or the picture mirrored at its
            outermost pixels, which are not repeated (``reflect``), over and over where the padding is larger than the
            picture. Masks take 255 (ignore) there in all cases, and boxes are cut at the picture.
    """

    padding: int = Field(default=4, ge=1, le=1024)
    mode: Literal["zeros", "edge", "reflect"] = "zeros"

    def fault(self, height: int, width: int, channels: int) -> str | None:
        """Return that a padding as large as the picture would shift it out of sight."""
        if self.padding < min(height, width) or self.mode != "zeros":
            return None
        return f"padding = {self.padding} shifts pictures of {height}×{width} px out of sight"

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] that shift by whole pixels in [-padding, padding], all equally likely."""
        matrices = identity(len(sizes))
        matrices[:, 0, 2] = draws.integers(2 * self.padding + 1, "x") - self.padding
        matrices[:, 1, 2] = draws.integers(2 * self.padding + 1, "y") - self.padding
        return matrices

    def sampling(self) -> Sampling:
        """Return what ``mode`` asks for."""
        return PLAIN if self.mode == "zeros" else Sampling(self.mode)


AUGMENTATIONS.register("pad_crop", PadCrop, __name__, title="padding, then a random crop", geometric=True)
