"""TrivialAugment (wide): one random operation at a random strength.

Source: Müller and Hutter, TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation (2021),
https://arxiv.org/abs/2103.10158, table 5 ("wide"); ranges are torchvision's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.operations import OPERATIONS, WIDE, Steps, number_of
from danlu.augment.policy import Policy

__all__ = ["TrivialAugment"]

_CHOICES = np.array([number_of(name) for name in OPERATIONS if name != "invert"])


class TrivialAugment(Policy):
    """Apply one operation at one of ``bins`` levels, all equally likely."""

    bins: int = Field(default=31, ge=2, le=1000)

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Steps:
        """Return one step for each of B samples."""
        chosen = _CHOICES[draws.integers(len(_CHOICES), "operation")]
        share = draws.integers(self.bins, "level") / (self.bins - 1)
        strengths = WIDE.magnitudes(chosen, share, draws.uniform("sign") < 0.5, sizes)
        return Steps(chosen[:, None], strengths[:, None])


AUGMENTATIONS.register(
    "trivialaugment", TrivialAugment, __name__, title="one random operation of random strength", geometric=True
)
