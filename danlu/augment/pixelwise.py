"""Augmentations that change levels and move nothing: masks, boxes and points stay where they are."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment.base import Augmentation, Draws, Scene

__all__ = ["Coloured", "PixelDraw", "Pixelwise"]


@dataclass(frozen=True)
class PixelDraw:
    """What a pixelwise augmentation draws.

    Args:
        chosen: bool [B]: which pictures change.
        values: float64 [B] or [B, …]: by how much.
    """

    chosen: NDArray[np.bool_]
    values: NDArray[np.float64]


class Pixelwise(Augmentation):
    """Changes the levels of a share ``probability`` of the pictures."""

    probability: float = Field(default=1.0, ge=0.0, le=1.0)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> PixelDraw:
        """Return which of B pictures change and by how much."""
        return PixelDraw(draws.uniform("chosen") < self.probability, self.values(draws, sizes))

    def values(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the values [B] or [B, …] that :meth:`change` takes; zeros where it needs none."""
        return np.zeros(len(sizes))

    @abstractmethod
    def change(self, pictures: torch.Tensor, values: NDArray[np.float64]) -> torch.Tensor:
        """Return new uint8 pictures [n, H, W, C] for those given; ``values`` [n, …] are theirs. n is at least 1."""

    def apply(self, scene: Scene, parameters: PixelDraw) -> Scene:
        """Return the batch with the chosen pictures changed."""
        chosen = parameters.chosen
        if not chosen.any():
            return replace(scene, pictures=scene.pictures.clone())
        if chosen.all():
            return replace(scene, pictures=self.change(scene.pictures, parameters.values))
        pictures = scene.pictures.clone()
        rows = torch.from_numpy(np.flatnonzero(chosen)).to(pictures.device)
        pictures[rows] = self.change(pictures[rows], parameters.values[chosen])
        return replace(scene, pictures=pictures)


class Coloured(Pixelwise):
    """Changes colours, of which pictures of one channel have none."""

    def fault(self, height: int, width: int, channels: int) -> str | None:
        """Return that grey pictures stay as they are."""
        return "these pictures are grey and have no colours to change" if channels == 1 else None
