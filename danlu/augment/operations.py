"""The operations that policies are made of, and how strong each is at a level, for whole batches of mixed operations.

An operation is named as in AutoAugment's paper (Cubuk et al., 2018, table 6). Its magnitude here is what its kernel
takes: a slope, pixels, degrees, a factor, bits or a threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from danlu.augment import colours, levels
from danlu.augment.base import Scene, identity, warp_scene
from danlu.augment.matrices import affine_matrices
from danlu.augment.warp import Sampling

__all__ = ["AUGMIX", "CHANGES", "MOVES", "OPERATIONS", "STANDARD", "WIDE", "Space", "Steps", "apply_steps", "number_of"]

Values = NDArray[np.float64]
Sizes = NDArray[np.int64]


def _slope(slopes: Values) -> Values:
    return np.rad2deg(np.arctan(slopes))


# Slants keep the corner (0, 0) in place, as in the paper's code; turns are anticlockwise there.
MOVES: dict[str, Callable[[Sizes, Values], Values]] = {
    "shear_x": lambda sizes, values: affine_matrices(sizes, shear=(_slope(values), 0.0), centre=(0.0, 0.0)),
    "shear_y": lambda sizes, values: affine_matrices(sizes, shear=(0.0, _slope(values)), centre=(0.0, 0.0)),
    "translate_x": lambda sizes, values: affine_matrices(sizes, translate=(np.trunc(values), 0.0)),
    "translate_y": lambda sizes, values: affine_matrices(sizes, translate=(0.0, np.trunc(values))),
    "rotate": lambda sizes, values: affine_matrices(sizes, angle=-values),
}
CHANGES: dict[str, Callable[[torch.Tensor, Values], torch.Tensor]] = {
    "brightness": levels.adjust_brightness,
    "colour": colours.adjust_saturation,
    "contrast": levels.adjust_contrast,
    "sharpness": colours.adjust_sharpness,
    "posterize": lambda pictures, values: levels.posterize(pictures, np.rint(values)),
    "solarize": levels.solarize,
    "autocontrast": lambda pictures, values: levels.autocontrast(pictures),
    "equalize": lambda pictures, values: levels.equalize(pictures),
    "invert": lambda pictures, values: levels.invert(pictures),
}
OPERATIONS = ("identity", *MOVES, *CHANGES)
_MOVING = 1 + len(MOVES)  # operations are numbered: identity, then moves, then changes


def number_of(name: str) -> int:
    """Return the place of an operation in :data:`OPERATIONS`; ``ValueError`` where there is none of that name."""
    return OPERATIONS.index(name)


@dataclass(frozen=True)
class Space:
    """How strong each operation is at the greatest level; at level 0 it does nothing or least.

    Args:
        shear: slope.
        translate_share: of the side, or 0 where ``translate_pixels`` says it.
        translate_pixels: the same in pixels.
        rotate: degrees.
        factor: how far a factor is from 1.
        bits: kept by posterize at level 0, and how many fewer at the greatest.
    """

    shear: float
    translate_share: float
    translate_pixels: float
    rotate: float
    factor: float
    bits: tuple[float, float]

    def magnitudes(
        self, operations: NDArray[np.int64], shares: Values, negative: NDArray[np.bool_], sizes: Sizes
    ) -> Values:
        """Return what the kernels take.

        Args:
            operations: [B] numbers of operations.
            shares: [B] level over the greatest level, 0…1.
            negative: [B]: turned the other way, where an operation has two.
            sizes: [B, 2] (height, width).
        """
        base, slope = np.zeros((2, len(OPERATIONS)))
        for name in ("brightness", "colour", "contrast", "sharpness"):
            base[number_of(name)], slope[number_of(name)] = 1.0, self.factor
        for name, value in (("shear_x", self.shear), ("shear_y", self.shear), ("rotate", self.rotate)):
            slope[number_of(name)] = value
        base[number_of("posterize")], slope[number_of("posterize")] = self.bits[0], -self.bits[1]
        base[number_of("solarize")], slope[number_of("solarize")] = 255.0, -255.0
        steepness = slope[operations]
        for name, axis in (("translate_x", 1), ("translate_y", 0)):
            chosen = operations == number_of(name)
            steepness[chosen] = sizes[chosen, axis] * self.translate_share + self.translate_pixels
        one_way = (operations == number_of("posterize")) | (operations == number_of("solarize"))
        return np.asarray(base[operations] + np.where(negative & ~one_way, -1.0, 1.0) * steepness * shares)


# AutoAugment's and RandAugment's ranges, TrivialAugment's wide ones, AugMix's; as torchvision has them.
STANDARD = Space(0.3, 150.0 / 331.0, 0.0, 30.0, 0.9, (8.0, 4.0))
WIDE = Space(0.99, 0.0, 32.0, 135.0, 0.99, (8.0, 6.0))
AUGMIX = Space(0.3, 1.0 / 3.0, 0.0, 30.0, 0.9, (4.0, 4.0))


@dataclass(frozen=True)
class Steps:
    """Operations drawn for each sample, one after the other.

    Args:
        operations: int64 [B, S] numbers in :data:`OPERATIONS`.
        magnitudes: float64 [B, S].
    """

    operations: NDArray[np.int64]
    magnitudes: Values


def apply_steps(scene: Scene, steps: Steps, sampling: Sampling) -> Scene:
    """Return the batch after its steps; pictures of one operation go through its kernel together.

    Moves of one picture that follow one another are multiplied and resampled once. Masks, boxes and points follow the
    moves and stay at every other operation.
    """
    count = len(scene.pictures)
    sizes = np.tile(np.array(scene.pictures.shape[1:3], dtype=np.int64), (count, 1))
    visible = scene.visible
    if scene.boxes is not None and visible is None:
        visible = [torch.ones(len(one)) for one in scene.boxes]
    scene = replace(scene, pictures=scene.pictures.clone(), visible=visible)
    pending, waiting = identity(count), np.zeros(count, dtype=np.bool_)
    for operations, magnitudes in zip(steps.operations.T, steps.magnitudes.T, strict=True):
        changing = operations >= _MOVING
        if (waiting & changing).any():
            scene = _moved(scene, pending, np.flatnonzero(waiting & changing), sampling)
            pending[changing], waiting[changing] = np.eye(3), False
        for number in np.unique(operations):
            name, rows = OPERATIONS[number], np.flatnonzero(operations == number)
            if name in MOVES:
                pending[rows] = MOVES[name](sizes[rows], magnitudes[rows]) @ pending[rows]
                waiting[rows] = True
            elif name in CHANGES:
                where = torch.from_numpy(rows).to(scene.pictures.device)
                changed = CHANGES[name](scene.pictures.index_select(0, where), magnitudes[rows])
                scene.pictures.index_copy_(0, where, changed)
    return _moved(scene, pending, np.flatnonzero(waiting), sampling)


def _moved(scene: Scene, matrices: Values, rows: NDArray[np.int64], sampling: Sampling) -> Scene:
    """Return ``scene`` with the samples at ``rows`` moved; its pictures and masks, which are ours, are written to."""
    if not len(rows):
        return scene
    where = torch.from_numpy(rows).to(scene.pictures.device)
    boxes, points, visible = scene.boxes, scene.points, scene.visible
    part = Scene(
        pictures=scene.pictures.index_select(0, where),
        masks=None if scene.masks is None else scene.masks.index_select(0, where),
        boxes=None if boxes is None else [boxes[row] for row in rows],
        points=None if points is None else [points[row] for row in rows],
        visible=None if visible is None else [visible[row] for row in rows],
    )
    part = warp_scene(part, matrices[rows], sampling)
    masks = scene.masks
    if masks is not None and part.masks is not None:
        masks = masks.index_copy(0, where, part.masks)
    return replace(
        scene,
        pictures=scene.pictures.index_copy_(0, where, part.pictures),
        masks=masks,
        boxes=_put(boxes, rows, part.boxes),
        points=_put(points, rows, part.points),
        visible=_put(visible, rows, part.visible),
    )


def _put(
    whole: list[torch.Tensor] | None, rows: NDArray[np.int64], part: list[torch.Tensor] | None
) -> list[torch.Tensor] | None:
    if whole is None or part is None:
        return whole
    fresh = dict(zip(rows.tolist(), part, strict=True))
    return [fresh.get(place, one) for place, one in enumerate(whole)]
