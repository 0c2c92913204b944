"""Horizontal flip: each picture is mirrored left to right with a given probability."""

from __future__ import annotations

from danlu.augment import AUGMENTATIONS
from danlu.augment.mirror import Mirror

__all__ = ["Flip"]


class Flip(Mirror):
    """Mirror left to right. Not for digits and letters, whose mirror image is another sign."""

    axis = 0


AUGMENTATIONS.register("flip", Flip, __name__, title="mirrored left to right", geometric=True)
