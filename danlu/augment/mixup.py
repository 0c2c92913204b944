"""Mixup: each picture is blended with another of the batch, and so are their labels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.in_batch import InBatch, Pairing, symmetric_beta

__all__ = ["Mixup"]


class Mixup(InBatch):
    """share · picture + (1 - share) · partner, rounded to whole levels (Zhang et al. 2018, equation 1).

    Attributes:
        alpha: the share comes from Beta(alpha, alpha).
    """

    alpha: float = Field(default=1.0, gt=0.0, le=1000.0)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Pairing:
        """Return the pairing of B samples."""
        del sizes
        share = symmetric_beta(self.alpha, self.numbers(draws, "u"), self.numbers(draws, "v"))
        return Pairing(self.partners(draws), np.where(self.untouched(draws), 1.0, share))


AUGMENTATIONS.register("mixup", Mixup, __name__, title="two pictures and their labels blended", in_batch=True)
