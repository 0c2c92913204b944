"""Mixup in some batches and CutMix in the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.cutmix import CutMix
from danlu.augment.in_batch import InBatch, Pairing
from danlu.augment.mixup import Mixup

__all__ = ["MixupOrCutMix"]


class MixupOrCutMix(InBatch):
    """One of the two, drawn anew for each batch or sample, as in the recipe of DeiT (Touvron et al. 2021).

    Attributes:
        mixup_alpha: of :class:`danlu.augment.mixup.Mixup`.
        cutmix_alpha: of :class:`danlu.augment.cutmix.CutMix`.
        cut: the share of batches, or samples, that are cut rather than blended.
    """

    mixup_alpha: float = Field(default=0.8, gt=0.0, le=1000.0)
    cutmix_alpha: float = Field(default=1.0, gt=0.0, le=1000.0)
    cut: float = Field(default=0.5, ge=0.0, le=1.0)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Pairing:
        """Return the pairing of B samples; partners are the same whichever is drawn."""
        mixup = Mixup(alpha=self.mixup_alpha, per=self.per, probability=self.probability)
        cutmix = CutMix(alpha=self.cutmix_alpha, per=self.per, probability=self.probability)
        blended, cut = mixup.draw(draws, sizes), cutmix.draw(draws, sizes)
        whole = self.numbers(draws, "which") >= self.cut
        assert cut.boxes is not None
        boxes = np.where(whole[:, None], 0, cut.boxes)
        return replace(cut, share=np.where(whole, blended.share, cut.share), boxes=boxes, whole=whole)


AUGMENTATIONS.register(
    "mixup_or_cutmix", MixupOrCutMix, __name__, title="blended in some batches, pasted in others", in_batch=True
)
