"""CutMix: a rectangle of each picture comes from another of the batch, and as much of the label."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.in_batch import InBatch, Pairing, cut_boxes, symmetric_beta

__all__ = ["CutMix"]


class CutMix(InBatch):
    """A rectangle pasted from the partner at its own place (Yun et al. 2019, algorithm 1).

    The share of the label is the share of the area left, after the rectangle was cut at the border of the picture.

    Attributes:
        alpha: the share wanted comes from Beta(alpha, alpha).
    """

    alpha: float = Field(default=1.0, gt=0.0, le=1000.0)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Pairing:
        """Return the pairing of B samples; the share is the area left."""
        wanted = symmetric_beta(self.alpha, self.numbers(draws, "u"), self.numbers(draws, "v"))
        centre = np.stack([self.numbers(draws, "y"), self.numbers(draws, "x")], axis=1)
        boxes, share = cut_boxes(np.where(self.untouched(draws), 1.0, wanted), centre, sizes)
        return Pairing(self.partners(draws), share, boxes)


AUGMENTATIONS.register("cutmix", CutMix, __name__, title="a rectangle of another picture pasted", in_batch=True)
