"""Brightness: all levels of a picture times one factor."""

from __future__ import annotations

from danlu.augment import AUGMENTATIONS
from danlu.augment.factor import Factor
from danlu.augment.levels import adjust_brightness

__all__ = ["Brightness"]


class Brightness(Factor):
    """Multiply the levels."""

    adjust = (adjust_brightness,)


AUGMENTATIONS.register("brightness", Brightness, __name__, title="levels times a factor", geometric=False)
