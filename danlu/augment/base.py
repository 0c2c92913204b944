"""What an augmentation is: settings that draw parameters for each sample and apply them to a batch.

Coordinates are in pixels, x to the right and y down; pixel i covers [i, i+1). A matrix takes a point of the picture to
where it lies in the augmented picture: ``(x', y', 1) ~ M (x, y, 1)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from danlu.augment.warp import PLAIN, Fill, Interpolation, Sampling, warp_boxes, warp_masks, warp_pictures, warp_points
from danlu.core import seeds
from danlu.core.settings import Settings

__all__ = ["Augmentation", "Draws", "Geometric", "Mix", "Resampled", "Scene", "identity", "warp_scene"]


@dataclass(frozen=True)
class Draws:
    """Random draws for the samples of a batch; a sample's draws do not depend on the batch it stands in.

    Args:
        seed: the run's seed.
        epoch: 0 for the first.
        samples: [B] indices into the data set.
        repeat: counts views of one sample within an epoch; one number, or [B].
        purpose: keeps the draws of two augmentations apart.
    """

    seed: int
    epoch: int
    samples: NDArray[np.int64]
    repeat: int | NDArray[np.int64] = 0
    purpose: str = "augment"

    def named(self, purpose: str) -> Draws:
        """Return the same draws under a further purpose."""
        return replace(self, purpose=f"{self.purpose}/{purpose}")

    def uniform(self, what: str) -> NDArray[np.float64]:
        """Return [B] uniform values in [0, 1)."""
        return seeds.uniform(f"{self.purpose}/{what}", self.seed, self.epoch, self.samples, self.repeat)

    def integers(self, high: int, what: str) -> NDArray[np.int64]:
        """Return [B] integers in [0, high)."""
        return seeds.integers(high, f"{self.purpose}/{what}", self.seed, self.epoch, self.samples, self.repeat)

    def between(self, low: float, high: float, what: str) -> NDArray[np.float64]:
        """Return [B] uniform values in [low, high)."""
        return low + (high - low) * self.uniform(what)

    def bits(self, what: str) -> NDArray[np.uint64]:
        """Return [B] times 64 random bits, e.g. the key of a noise that is made later."""
        return seeds.random_bits(f"{self.purpose}/{what}", self.seed, self.epoch, self.samples, self.repeat)


@dataclass(frozen=True)
class Mix:
    """What was mixed into each picture of a batch, for the loss.

    Args:
        partner: int64 [B], the place in the batch of the picture that was mixed in.
        share: float32 [B], how much is left of the picture itself; the rest is its partner's.
    """

    partner: torch.Tensor
    share: torch.Tensor


@dataclass(frozen=True)
class Scene:
    """A batch of pictures with what lies on them.

    Args:
        pictures: uint8 [B, H, W, C].
        masks: uint8 [B, H, W] of class numbers, 255 = ignore.
        boxes: B tensors float32 [n, 4], absolute (x1, y1, x2, y2).
        points: B tensors float32 [n, 2], absolute (x, y).
        visible: B tensors float32 [n]: the share of each box's area still inside the picture. Boxes that left it stay
            in place with share 0, so that labels keep their order; the task decides what to do with them.
        labels: B tensors int64 [n]: the class of each box.
        mix: what was mixed into the pictures; None where nothing was.
    """

    pictures: torch.Tensor
    masks: torch.Tensor | None = None
    boxes: list[torch.Tensor] | None = None
    points: list[torch.Tensor] | None = None
    visible: list[torch.Tensor] | None = field(default=None)
    labels: list[torch.Tensor] | None = None
    mix: Mix | None = None


class Augmentation(Settings, ABC):
    """Base of all augmentations; its fields are its settings."""

    @abstractmethod
    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Any:
        """Return the parameters for B samples whose pictures have ``sizes`` [B, 2] (height, width)."""

    @abstractmethod
    def apply(self, scene: Scene, parameters: Any) -> Scene:
        """Return the augmented batch; the one given stays untouched."""

    def fault(self, height: int, width: int, channels: int) -> str | None:
        """Return why these settings make no sense for pictures of this size and so many channels, or None."""
        return None


class Geometric(Augmentation):
    """An augmentation that moves pixels: ``draw`` returns float64 [B, 3, 3] matrices."""

    @abstractmethod
    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the matrices [B, 3, 3] for B samples whose pictures have ``sizes`` [B, 2] (height, width)."""

    def sampling(self) -> Sampling | None:
        """Return how its pixels are resampled; ``None`` joins any neighbour, as it neither blends nor looks outside."""
        return PLAIN

    def apply(self, scene: Scene, parameters: NDArray[np.float64]) -> Scene:
        """Return the batch seen through the matrices: pictures and masks resampled once, boxes and points moved."""
        return warp_scene(scene, parameters, self.sampling() or PLAIN)


class Resampled(Geometric):
    """A geometric augmentation that says how its pixels are made.

    Args:
        fill: the level of what comes from outside the picture, or ``"edge"``: the nearest pixel of its edge. Masks take
            255 (ignore) there in both cases.
        interpolation: of the pictures; masks always take the nearest pixel.
    """

    fill: Fill = 0
    interpolation: Interpolation = "bilinear"

    def sampling(self) -> Sampling:
        """Return the settings ``fill`` and ``interpolation``."""
        return Sampling(self.fill, self.interpolation)


def identity(count: int) -> NDArray[np.float64]:
    """Return [count, 3, 3] matrices that move nothing."""
    return np.tile(np.eye(3), (count, 1, 1))


def warp_scene(scene: Scene, matrices: NDArray[np.float64], sampling: Sampling = PLAIN) -> Scene:
    """Return ``scene`` with everything on it moved by ``matrices`` [B, 3, 3]."""
    height, width = scene.pictures.shape[1:3]
    boxes, visible = scene.boxes, scene.visible
    if boxes is not None:
        moved = [warp_boxes(one, matrix, (height, width)) for one, matrix in zip(boxes, matrices, strict=True)]
        before = visible if visible is not None else [torch.ones(len(one)) for one in boxes]
        boxes = [one for one, _ in moved]
        visible = [share * old for (_, share), old in zip(moved, before, strict=True)]
    points = scene.points
    if points is not None:
        points = [warp_points(one, matrix) for one, matrix in zip(points, matrices, strict=True)]
    return replace(
        scene,
        pictures=warp_pictures(scene.pictures, matrices, sampling),
        masks=None if scene.masks is None else warp_masks(scene.masks, matrices),
        boxes=boxes,
        points=points,
        visible=visible,
    )
