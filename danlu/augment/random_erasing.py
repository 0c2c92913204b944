"""Random erasing: a rectangle of random area and aspect ratio is filled with noise or with one level.

Source: Zhong et al., Random Erasing Data Augmentation (2017), https://arxiv.org/abs/1708.04896.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Augmentation, Draws, Scene
from danlu.augment.resized_crop import draw_windows
from danlu.core import seeds

__all__ = ["Erased", "RandomErasing"]

Positive = Annotated[float, Field(gt=0.0)]


@dataclass(frozen=True)
class Erased:
    """What is erased.

    Args:
        chosen: bool [B]: which pictures lose a rectangle.
        windows: float64 [B, 4] (top, left, height, width), whole pixels.
        keys: uint64 [B] from which each picture's noise is made.
    """

    chosen: NDArray[np.bool_]
    windows: NDArray[np.float64]
    keys: NDArray[np.uint64]


class RandomErasing(Augmentation):
    """Fill a rectangle of a share ``probability`` of the pictures.

    Ten tries are made for a rectangle that fits, as in torchvision (the paper tries without end); a picture for which
    none does keeps all its pixels. Masks, boxes and points under the rectangle stay: what is there is hidden, not gone.

    Args:
        probability: of a rectangle.
        scale: least and greatest share of the area.
        ratio: least and greatest width over height.
        fill: ``"noise"`` (each level drawn on its own, the paper's best) or one level.
    """

    probability: float = Field(default=0.5, ge=0.0, le=1.0)
    scale: tuple[Positive, Positive] = (0.02, 0.33)
    ratio: tuple[Positive, Positive] = (0.3, 3.3)
    fill: Annotated[int, Field(ge=0, le=255)] | Literal["noise"] = "noise"

    @model_validator(mode="after")
    def _ordered(self) -> RandomErasing:
        if not self.scale[0] <= self.scale[1] <= 1 or self.ratio[0] > self.ratio[1]:
            raise ValueError("scale and ratio are (least, greatest), scale at most 1")
        return self

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Erased:
        """Return the rectangles of B pictures."""
        windows, found = draw_windows(draws, sizes, self.scale, self.ratio)
        return Erased((draws.uniform("chosen") < self.probability) & found, windows, draws.bits("noise"))

    def apply(self, scene: Scene, parameters: Erased) -> Scene:
        """Return the batch with the rectangles filled."""
        pictures = scene.pictures.clone()
        device = pictures.device
        inside = []
        for axis in (0, 1):
            places = np.arange(pictures.shape[1 + axis]) - parameters.windows[:, axis, None]
            within = (places >= 0) & (places < parameters.windows[:, 2 + axis, None]) & parameters.chosen[:, None]
            inside.append(torch.from_numpy(within).to(device))
        hidden = inside[0][:, :, None, None] & inside[1][:, None, :, None]
        if self.fill != "noise":
            return replace(scene, pictures=pictures.masked_fill_(hidden, self.fill))
        if parameters.chosen.any():
            rows = torch.from_numpy(np.flatnonzero(parameters.chosen)).to(device)
            noise = _noise(parameters.keys[parameters.chosen], tuple(pictures.shape[1:])).to(device)
            pictures[rows] = torch.where(hidden[rows], noise, pictures[rows])
        return replace(scene, pictures=pictures)


def _noise(keys: NDArray[np.uint64], shape: tuple[int, ...]) -> torch.Tensor:
    count = int(np.prod(shape))
    words = seeds.random_bits("noise", keys[:, None], np.arange(-(-count // 8), dtype=np.int64))
    # Little-endian whatever the machine, so that the noise is the same everywhere.
    levels = np.ascontiguousarray(words.astype("<u8")).view(np.uint8)[:, :count]
    return torch.from_numpy(levels.reshape(len(keys), *shape))


AUGMENTATIONS.register("random_erasing", RandomErasing, __name__, title="a rectangle of noise", geometric=False)
