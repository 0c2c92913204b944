"""Cutout: a square of each picture is painted over, its centre anywhere in the picture.

Source: DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout (2017),
https://arxiv.org/abs/1708.04552.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.pixelwise import Pixelwise

__all__ = ["Cutout"]


class Cutout(Pixelwise):
    """Paint a square of ``size`` pixels with the level ``fill``; at the border part of it lies outside, as in the
    paper.

    Masks, boxes and points under the square stay: what is there is hidden, not gone, and the network is to infer it
    from what is around. The paper paints the mean after normalising (16 px on CIFAR-10, 8 px on CIFAR-100).
    """

    size: int = Field(default=16, ge=1, le=4096)
    fill: int = Field(default=0, ge=0, le=255)

    def fault(self, height: int, width: int, channels: int) -> str | None:
        """Return that a square larger than the picture would leave little or nothing of it."""
        if self.size <= min(height, width):
            return None
        return f"size = {self.size} is more than the {height}×{width} px of the pictures"

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return [B, 2]: top and left of the squares, which may lie outside."""
        centres = np.stack([np.floor(draws.uniform(what) * sizes[:, k]) for k, what in enumerate("yx")], axis=1)
        return centres - self.size // 2

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures with their squares at ``values`` [n, 2] painted."""
        inside = []
        for axis in (0, 1):
            places = np.arange(pictures.shape[1 + axis]) - values[:, axis, None]
            inside.append(torch.from_numpy((places >= 0) & (places < self.size)).to(pictures.device))
        square = inside[0][:, :, None, None] & inside[1][:, None, :, None]
        return pictures.masked_fill(square, self.fill)


AUGMENTATIONS.register("cutout", Cutout, __name__, title="a square painted over", geometric=False)
