"""Saturation: all colours of a picture move towards grey or away from it."""

from __future__ import annotations

from danlu.augment import AUGMENTATIONS
from danlu.augment.colours import adjust_saturation
from danlu.augment.factor import Factor
from danlu.augment.pixelwise import Coloured

__all__ = ["Saturation"]


class Saturation(Coloured, Factor):
    """Blend with the grey picture: a factor of 0 is grey, above 1 is more colourful."""

    adjust = (adjust_saturation,)


AUGMENTATIONS.register("saturation", Saturation, __name__, title="colours drawn to or from grey", geometric=False)
