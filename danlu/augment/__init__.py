"""Batched augmentation of pictures, boxes and masks: one augmentation a file, found by this folder.

An augmentation is drawn for each sample from (seed, epoch, sample, repeat) and applied to a whole batch of uint8
pictures at once. Geometric ones are 3×3 matrices; successive ones are multiplied, so that a picture is resampled once.
See :mod:`danlu.augment.base` for the contract and :mod:`danlu.augment.chain` for how a list of them is applied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from danlu.core.registry import Registry

if TYPE_CHECKING:
    from danlu.augment.base import Augmentation

__all__ = ["AUGMENTATIONS"]

AUGMENTATIONS: Registry[type[Augmentation]] = Registry("augmentation", "danlu.augment")
