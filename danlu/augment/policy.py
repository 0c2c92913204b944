"""What the learned and random policies share: steps drawn for each sample, applied with one fill and interpolation."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from danlu.augment.base import Augmentation, Draws, Scene
from danlu.augment.operations import Steps, apply_steps
from danlu.augment.warp import Fill, Interpolation, Sampling

__all__ = ["Policy"]


class Policy(Augmentation):
    """Draws operations for each sample.

    Args:
        fill: the level of what a move brings in from outside, or ``"edge"``.
        interpolation: of moved pictures; ``"nearest"`` as in the papers' code.
    """

    fill: Fill = 0
    interpolation: Interpolation = "nearest"

    @abstractmethod
    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Steps:
        """Return the steps of B samples."""

    def apply(self, scene: Scene, parameters: Steps) -> Scene:
        """Return the batch after its steps."""
        return apply_steps(scene, parameters, Sampling(self.fill, self.interpolation))
