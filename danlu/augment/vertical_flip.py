"""Vertical flip: each picture is mirrored top to bottom with a given probability."""

from __future__ import annotations

from danlu.augment import AUGMENTATIONS
from danlu.augment.mirror import Mirror

__all__ = ["VerticalFlip"]


class VerticalFlip(Mirror):
    """Mirror top to bottom, for pictures without an up: from above, through a microscope."""

    axis = 1


AUGMENTATIONS.register("vertical_flip", VerticalFlip, __name__, title="mirrored top to bottom", geometric=True)
