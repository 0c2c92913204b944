"""Contrast: all levels of a picture move towards its mean grey level or away from it."""

from __future__ import annotations

from danlu.augment import AUGMENTATIONS
from danlu.augment.factor import Factor
from danlu.augment.levels import adjust_contrast

__all__ = ["Contrast"]


class Contrast(Factor):
    """Blend with the mean grey level: a factor of 0 is flat grey, above 1 is more contrast."""

    adjust = (adjust_contrast,)


AUGMENTATIONS.register("contrast", Contrast, __name__, title="levels drawn to or from their mean", geometric=False)
