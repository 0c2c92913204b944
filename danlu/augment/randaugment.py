"""RandAugment: N operations at one strength M.

Source: Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search Space (2019),
https://arxiv.org/abs/1909.13719; operations and ranges are torchvision's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Draws
from danlu.augment.operations import OPERATIONS, STANDARD, Steps, number_of
from danlu.augment.policy import Policy

__all__ = ["RandAugment"]

# All but invert, which the paper leaves out.
_CHOICES = np.array([number_of(name) for name in OPERATIONS if name != "invert"])


class RandAugment(Policy):
    """Apply ``operations`` operations drawn with repetition, each at level ``magnitude`` of ``bins``.

    Args:
        operations: the paper's N.
        magnitude: the paper's M, 0…bins - 1.
        bins: how many levels the ranges are divided into.
    """

    operations: int = Field(default=2, ge=1, le=16)
    magnitude: int = Field(default=9, ge=0)
    bins: int = Field(default=31, ge=2, le=1000)

    @model_validator(mode="after")
    def _in_range(self) -> RandAugment:
        if self.magnitude >= self.bins:
            raise ValueError(f"magnitude is at most {self.bins - 1} with {self.bins} bins")
        return self

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Steps:
        """Return ``operations`` steps for each of B samples."""
        share = np.full(len(sizes), self.magnitude / (self.bins - 1))
        chosen, strengths = [], []
        for step in range(self.operations):
            chosen.append(_CHOICES[draws.integers(len(_CHOICES), f"operation-{step}")])
            negative = draws.uniform(f"sign-{step}") < 0.5
            strengths.append(STANDARD.magnitudes(chosen[-1], share, negative, sizes))
        return Steps(np.stack(chosen, axis=1), np.stack(strengths, axis=1))


AUGMENTATIONS.register("randaugment", RandAugment, __name__, title="N random operations of strength M", geometric=True)
