"""Colour jitter: brightness, contrast, saturation and hue, in an order drawn for each picture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.colours import adjust_hue, adjust_saturation
from danlu.augment.levels import adjust_brightness, adjust_contrast
from danlu.augment.pixelwise import Pixelwise

__all__ = ["ColourJitter"]

_STEPS = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)


class ColourJitter(Pixelwise):
    """All four, each with its own draw; an amount of 0 leaves one out.

    Args:
        brightness, contrast, saturation: factors in [1 - amount, 1 + amount), never below 0.
        hue: turns in [-hue, hue) of the circle.
    """

    brightness: float = Field(default=0.4, ge=0.0, le=10.0)
    contrast: float = Field(default=0.4, ge=0.0, le=10.0)
    saturation: float = Field(default=0.4, ge=0.0, le=10.0)
    hue: float = Field(default=0.1, ge=0.0, le=0.5)

    def fault(self, height: int, width: int, channels: int) -> str | None:
        """Return that grey pictures have no hue and no saturation."""
        if channels != 1 or (not self.hue and not self.saturation):
            return None
        return f"hue = {self.hue} and saturation = {self.saturation} change nothing of grey pictures; give 0 for both"

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return [B, 8]: the four values, then the four steps in their order (places in brightness…hue)."""
        factors = [
            draws.between(max(0.0, 1.0 - amount), 1.0 + amount, f"factor-{k}")
            for k, amount in enumerate((self.brightness, self.contrast, self.saturation))
        ]
        order = np.argsort(np.stack([draws.uniform(f"order-{k}") for k in range(4)], axis=1), axis=1, kind="stable")
        return np.concatenate([np.stack([*factors, draws.between(-self.hue, self.hue, "turn")], axis=1), order], axis=1)

    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return the pictures after their four steps ``values`` [n, 8]."""
        amounts = (self.brightness, self.contrast, self.saturation, self.hue)
        pictures = pictures.clone()
        for place in range(4):
            for step, (change, amount) in enumerate(zip(_STEPS, amounts, strict=True)):
                now = values[:, 4 + place] == step
                if amount > 0 and now.any():
                    rows = torch.from_numpy(np.flatnonzero(now)).to(pictures.device)
                    pictures[rows] = change(pictures[rows], values[now, step])
        return pictures


AUGMENTATIONS.register(
    "colour_jitter", ColourJitter, __name__, title="brightness, contrast, saturation, hue", geometric=False
)
