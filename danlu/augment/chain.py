"""A list of augmentations as one: successive geometric ones are multiplied and the pictures resampled once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Augmentation, Draws, Geometric, Scene, warp_scene
from danlu.augment.warp import PLAIN, Sampling
from danlu.core.errors import InputError
from danlu.core.settings import make_settings

__all__ = ["Chain", "make_augmentation", "make_chain"]


def make_augmentation(values: Mapping[str, Any], where: str = "augment") -> Augmentation:
    """Return the augmentation that ``{"name": NAME, setting: value, …}`` describes.

    Raises:
        InputError: no name, an unknown name or setting, or a value out of its range.
    """
    name = values.get("name")
    if not isinstance(name, str):
        raise InputError(
            f"{dict(values)!r} names no augmentation",
            where=where,
            allowed=AUGMENTATIONS.names(),
            mend='write [{"name": "flip"}]',
        )
    kind = AUGMENTATIONS.get(name, where)
    return make_settings(kind, {key: value for key, value in values.items() if key != "name"}, f"{where}, {name}")


def make_chain(augmentations: Sequence[Mapping[str, Any]], where: str = "augment") -> Chain:
    """Return the chain that a list of ``{"name": …}`` describes; an empty list changes nothing.

    Raises:
        InputError: see :func:`make_augmentation`; the message says which element.
    """
    return Chain([make_augmentation(values, f"{where}[{place}]") for place, values in enumerate(augmentations)])


class Chain:
    """Augmentations in the order they are applied."""

    def __init__(self, augmentations: Sequence[Augmentation]) -> None:
        self.augmentations = tuple(augmentations)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> list[Any]:
        """Return each augmentation's parameters for B samples; two of one kind draw independently."""
        return [
            augmentation.draw(draws.named(f"{place}-{type(augmentation).__name__}"), sizes)
            for place, augmentation in enumerate(self.augmentations)
        ]

    def apply(self, scene: Scene, parameters: Sequence[Any]) -> Scene:
        """Return the augmented batch; runs of geometric augmentations are one matrix and one resampling.

        A run ends where fill or interpolation change: one resampling cannot honour both.
        """
        pending: NDArray[np.float64] | None = None
        sampling: Sampling | None = None
        for augmentation, values in zip(self.augmentations, parameters, strict=True):
            wanted = augmentation.sampling() if isinstance(augmentation, Geometric) else None
            joins = isinstance(augmentation, Geometric) and (wanted is None or sampling in (None, wanted))
            if pending is not None and not joins:
                scene, pending, sampling = warp_scene(scene, pending, sampling or PLAIN), None, None
            if isinstance(augmentation, Geometric):
                pending = values if pending is None else values @ pending
                sampling = wanted or sampling
            else:
                scene = augmentation.apply(scene, values)
        return scene if pending is None else warp_scene(scene, pending, sampling or PLAIN)

    def pictures(self, pictures: torch.Tensor, draws: Draws) -> torch.Tensor:
        """Return uint8 pictures [B, H, W, C] augmented by their samples' draws."""
        if not self.augmentations:
            return pictures
        sizes = np.tile(np.array(pictures.shape[1:3], dtype=np.int64), (len(pictures), 1))
        return self.apply(Scene(pictures), self.draw(draws, sizes)).pictures
