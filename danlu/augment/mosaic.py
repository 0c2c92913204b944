"""Mosaic: four pictures in one, each in a quarter of its own size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws, Scene
from danlu.augment.partnered import Partnered, check_scenes, other_samples, per_box

__all__ = ["Mosaic", "Tiles"]


@dataclass(frozen=True)
class Tiles:
    """Where the four pictures of each sample go; the sample itself is number 0, its partners are 1, 2 and 3.

    Attributes:
        places: int64 [B, 4, 4], the rectangle (x1, y1, x2, y2) that each fills; the four cover the picture.
        starts: int64 [B, 4, 2], (x, y) of what each shows: the pixels from there on, at full scale.
    """

    places: NDArray[np.int64]
    starts: NDArray[np.int64]


class Mosaic(Partnered):
    """Four pictures around a point drawn at random (Bochkovskiy et al. 2020, section 3.3).

    Each shows a window of its quarter's size, cut out at random and copied pixel by pixel. Objects of other sizes come
    from a geometric augmentation before it in the chain, which the partners pass through too, with draws of their own.

    Attributes:
        margin: the point lies at least this share of height and width from the border.
    """

    margin: float = Field(default=0.25, ge=0.0, le=0.5)

    def partners(self, draws: Draws, count: int) -> NDArray[np.int64]:
        """Return int64 [B, 3]."""
        return other_samples(draws, count, 3)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Tiles:
        """Return the tiles of B samples."""
        height, width = sizes[:, 0], sizes[:, 1]
        middle = [
            np.rint(length * (self.margin + (1.0 - 2.0 * self.margin) * draws.uniform(what))).astype(np.int64)
            for length, what in ((height, "y"), (width, "x"))
        ]
        zero, (y, x) = np.zeros_like(height), middle
        quarters = np.stack(
            [
                np.stack(corners, axis=1)
                for corners in ((zero, zero, x, y), (x, zero, width, y), (zero, y, x, height), (x, y, width, height))
            ],
            axis=1,
        )
        # Which of the four lies at the top left is drawn too, the others follow in turn.
        turn = (draws.integers(4, "turn")[:, None] + np.arange(4)) % 4
        places = np.take_along_axis(quarters, turn[:, :, None], axis=1)
        starts = np.zeros((len(sizes), 4, 2), dtype=np.int64)
        for slot in range(4):
            for axis, length in ((0, width), (1, height)):
                room = length - (places[:, slot, axis + 2] - places[:, slot, axis])
                starts[:, slot, axis] = np.floor(draws.uniform(f"start-{slot}-{axis}") * (room + 1))
        return Tiles(places, starts)

    def apply(self, scene: Scene, parameters: Tiles, partners: Sequence[Scene] = ()) -> Scene:
        """Return the mosaics: boxes of all four, in that order, each cut to its quarter.

        Raises:
            InputError: see :func:`danlu.augment.partnered.check_scenes`.
        """
        check_scenes("mosaic", scene, partners, 3)
        four = (scene, *partners)
        pictures = torch.empty_like(scene.pictures)
        masks = None if scene.masks is None else torch.empty_like(scene.masks)
        for i in range(len(pictures)):
            for one, (x1, y1, x2, y2), (x, y) in zip(
                four, parameters.places[i].tolist(), parameters.starts[i].tolist(), strict=True
            ):
                window = slice(y, y + y2 - y1), slice(x, x + x2 - x1)
                pictures[i, y1:y2, x1:x2] = one.pictures[i][window]
                if masks is not None and one.masks is not None:
                    masks[i, y1:y2, x1:x2] = one.masks[i][window]
        boxes, visible = _boxes(four, parameters) if scene.boxes is not None else (None, None)
        labels = None
        if scene.labels is not None:
            labels = [torch.cat(found) for found in zip(*(one.labels or () for one in four), strict=True)]
        return Scene(pictures, masks, boxes, visible=visible, labels=labels)


def _boxes(four: Sequence[Scene], tiles: Tiles) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    moved: list[torch.Tensor] = []
    shares: list[torch.Tensor] = []
    before = [per_box(one) for one in four]
    for i, (places, starts) in enumerate(zip(tiles.places, tiles.starts, strict=True)):
        parts = [
            _cut(one.boxes[i], before[slot][i], torch.from_numpy(places[slot]), torch.from_numpy(starts[slot]))
            for slot, one in enumerate(four)
            if one.boxes is not None
        ]
        moved.append(torch.cat([boxes for boxes, _ in parts]))
        shares.append(torch.cat([share for _, share in parts]))
    return moved, shares


def _cut(
    boxes: torch.Tensor, visible: torch.Tensor, place: torch.Tensor, start: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the boxes [n, 4] of one picture in its place, cut to it, and how much of each is still seen [n]."""
    corners = boxes.reshape(-1, 2, 2).float() + (place[:2] - start).to(boxes.device, torch.float32)
    low, high = place[:2].to(corners), place[2:].to(corners)
    inside = torch.minimum(torch.maximum(corners, low), high)
    whole, left = ((one[:, 1] - one[:, 0]).prod(dim=1) for one in (corners, inside))
    share = torch.where(whole > 0, left / whole.clamp(min=1e-12), torch.zeros_like(whole))
    return inside.reshape(-1, 4), visible.to(share) * share


AUGMENTATIONS.register("mosaic", Mosaic, __name__, title="four pictures in one", partners=3)
