"""HSV: hue turned, saturation and value multiplied, each by its own draw."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.colours import adjust_hsv
from danlu.augment.pixelwise import Pixelwise

__all__ = ["HSV"]


class HSV(Pixelwise):
    """The colour jitter of one-stage detectors: three gains in the HSV cone.

    Args:
        hue: turn by up to this share of the circle each way.
        saturation: multiply by a factor in [1 - saturation, 1 + saturation).
        value: the same of the value (the greatest channel).
    """

    hue: float = Field(default=0.015, ge=0.0, le=0.5)
    saturation: float = Field(default=0.7, ge=0.0, le=1.0)
    value: float = Field(default=0.4, ge=0.0, le=1.0)

    def fault(self, height: int, width: int, channels: int) -> str | None:
        """Return that grey pictures have no hue and no saturation; their value changes all the same."""
        if channels != 1 or (not self.hue and not self.saturation):
            return None
        return f"hue = {self.hue} and saturation = {self.saturation} change nothing of grey pictures; give 0 for both"

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return [B, 3]: turn, factor of the saturation, factor of the value."""
        turn = draws.between(-self.hue, self.hue, "hue")
        factors = [
            draws.between(1.0 - limit, 1.0 + limit, what)
            for what, limit in (("saturation", self.saturation), ("value", self.value))
        ]
        return np.stack([turn, *factors], axis=1)

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures with ``values`` [n, 3] applied."""
        return adjust_hsv(pictures, values)


AUGMENTATIONS.register("hsv", HSV, __name__, title="gains of hue, saturation and value", geometric=False)
