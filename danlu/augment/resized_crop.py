"""Resized crop: a window of random area and aspect ratio, stretched to the picture's size.

Source: Szegedy et al., Going Deeper with Convolutions (2015), section 6, https://arxiv.org/abs/1409.4842; drawn as
torchvision's ``RandomResizedCrop`` draws it.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Resampled
from danlu.augment.matrices import window_matrices
from danlu.augment.warp import Fill

__all__ = ["ResizedCrop", "draw_windows"]

TRIES = 10
Positive = Annotated[float, Field(gt=0.0)]


def draw_windows(
    draws: Draws, sizes: NDArray[np.int64], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return windows of random area and aspect ratio in whole pixels, the first of ten that fits.

    Args:
        draws: of the samples.
        sizes: [B, 2] (height, width).
        scale: the window's share of the picture's area, uniform between the two.
        ratio: width over height, log-uniform between the two.

    Returns:
        float64 [B, 4] (top, left, height, width), and bool [B]: whether one fitted; rows where none did hold nothing.
    """
    windows, found = np.zeros((len(sizes), 4)), np.zeros(len(sizes), dtype=np.bool_)
    area = sizes.prod(axis=1)
    for attempt in range(TRIES):
        if found.all():
            break
        target = area * draws.between(*scale, f"area-{attempt}")
        aspect = np.exp(draws.between(float(np.log(ratio[0])), float(np.log(ratio[1])), f"aspect-{attempt}"))
        sides = np.rint(np.stack([np.sqrt(target / aspect), np.sqrt(target * aspect)], axis=1))
        fits = ((sides > 0) & (sides <= sizes)).all(axis=1) & ~found
        place = np.stack([draws.uniform(f"y-{attempt}"), draws.uniform(f"x-{attempt}")], axis=1)
        windows[fits] = np.concatenate([np.floor(place * (sizes - sides + 1)), sides], axis=1)[fits]
        found |= fits
    return windows, found


class ResizedCrop(Resampled):
    """Cut a window of a random share of the area and a random aspect ratio; ten tries, then the middle.

    Where no try fits, the largest middle window within ``ratio`` is taken. At the window's rim the neighbours are the
    picture's true ones; a crop that is cut out first can only repeat its own edge there.

    Args:
        scale: least and greatest share of the picture's area.
        ratio: least and greatest width over height.
    """

    scale: tuple[Positive, Positive] = (0.08, 1.0)
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    fill: Fill = "edge"

    @model_validator(mode="after")
    def _ordered(self) -> ResizedCrop:
        if not self.scale[0] <= self.scale[1] <= 1 or self.ratio[0] > self.ratio[1]:
            raise ValueError("scale and ratio are (least, greatest), scale at most 1")
        return self

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return matrices [B, 3, 3] that stretch each sample's window over its picture."""
        windows, found = draw_windows(draws, sizes, self.scale, self.ratio)
        windows[~found] = self._middle(sizes[~found])
        return window_matrices(sizes, windows)

    def _middle(self, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        height, width = sizes[:, 0], sizes[:, 1]
        aspect = (width / height).clip(*self.ratio)
        sides = np.stack([np.minimum(height, np.rint(width / aspect)), np.minimum(width, np.rint(height * aspect))], 1)
        sides = np.maximum(sides, 1)
        return np.concatenate([(sizes - sides) // 2, sides], axis=1)


AUGMENTATIONS.register("resized_crop", ResizedCrop, __name__, title="a window of random area and ratio", geometric=True)
