"""Gaussian blur: a share of the pictures is blurred by a Gaussian whose width is drawn for each."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.colours import gaussian_blur
from danlu.augment.pixelwise import Pixelwise

__all__ = ["GaussianBlur"]


class GaussianBlur(Pixelwise):
    """A Gaussian of ``low`` to ``high`` pixels, uniform, cut at ``size`` taps."""

    probability: float = Field(default=0.5, ge=0.0, le=1.0)
    size: int = Field(default=3, ge=3, le=127)
    low: float = Field(default=0.1, gt=0.0, le=100.0)
    high: float = Field(default=2.0, gt=0.0, le=100.0)

    @model_validator(mode="after")
    def _sensible(self) -> GaussianBlur:
        if self.size % 2 == 0 or self.low > self.high:
            raise ValueError("size is odd, low at most high")
        return self

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the widths [B] in pixels."""
        return draws.between(self.low, self.high, "sigma")

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures blurred by ``values`` [n] pixels."""
        return gaussian_blur(pictures, values, self.size)


AUGMENTATIONS.register("gaussian_blur", GaussianBlur, __name__, title="blurred by a Gaussian", geometric=False)
