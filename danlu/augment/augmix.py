"""AugMix: a picture is mixed with several of its own augmented copies.

Source: Hendrycks et al., AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty (2020),
https://arxiv.org/abs/1912.02781; ranges are torchvision's. The paper's consistency loss is no part of this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from danlu.augment import AUGMENTATIONS
from danlu.augment.base import Augmentation, Draws, Scene
from danlu.augment.distributions import dirichlet
from danlu.augment.levels import per_picture
from danlu.augment.operations import AUGMIX, CHANGES, MOVES, OPERATIONS, Steps, apply_steps, number_of
from danlu.augment.warp import Fill, Interpolation, Sampling
from danlu.core.errors import InputError

__all__ = ["AugMix", "Mixture"]

_LEVELS = 10
_GREATEST_DEPTH = 3
# The paper leaves out what overlaps with the corruptions it tests on.
_LEFT_OUT = ("brightness", "colour", "contrast", "sharpness")
_CHOICES = {
    "paper": [name for name in OPERATIONS if name not in (*_LEFT_OUT, "invert", "identity")],
    "all": [name for name in OPERATIONS if name not in ("invert", "identity")],
    "still": [name for name in CHANGES if name not in (*_LEFT_OUT, "invert")],
}


@dataclass(frozen=True)
class Mixture:
    """What AugMix draws.

    Args:
        chains: steps of each of the copies.
        weights: float64 [B, 1 + copies], adding up to 1: of the picture itself, then of its copies.
    """

    chains: tuple[Steps, ...]
    weights: NDArray[np.float64]


class AugMix(Augmentation):
    """Mix the picture with ``width`` chains of ``depth`` operations each, by Dirichlet and Beta weights.

    Args:
        severity: operations are drawn at levels below this, of ten.
        width: how many chains.
        depth: operations a chain; ``None`` draws 1 to 3 for each.
        alpha: of the Dirichlet and Beta distributions.
        operations: ``"paper"``, ``"all"`` (also brightness, colour, contrast, sharpness), or ``"still"`` (nothing
            moves, which masks, boxes and points need: a mixture of moved copies has no one place).
        fill: see :class:`~danlu.augment.policy.Policy`.
        interpolation: see there.
    """

    severity: int = Field(default=3, ge=1, le=_LEVELS)
    width: int = Field(default=3, ge=1, le=16)
    depth: int | None = Field(default=None, ge=1, le=16)
    alpha: float = Field(default=1.0, gt=0.0, le=100.0)
    operations: Literal["paper", "all", "still"] = "paper"
    fill: Fill = 0
    interpolation: Interpolation = "bilinear"

    def draw(self, draws: Draws, sizes: NDArray[np.int64]) -> Mixture:
        """Return chains and weights of B samples."""
        own = dirichlet(draws, self.alpha, 2, "own")
        weights = np.concatenate([own[:, :1], own[:, 1:] * dirichlet(draws, self.alpha, self.width, "copies")], axis=1)
        return Mixture(tuple(self._chain(draws.named(f"chain-{k}"), sizes) for k in range(self.width)), weights)

    def _chain(self, draws: Draws, sizes: NDArray[np.int64]) -> Steps:
        choices = np.array([number_of(name) for name in _CHOICES[self.operations]])
        depths = np.full(len(sizes), self.depth or 0)
        if self.depth is None:
            depths = 1 + draws.integers(_GREATEST_DEPTH, "depth")
        operations, strengths = [], []
        for step in range(self.depth or _GREATEST_DEPTH):
            operation = np.where(step < depths, choices[draws.integers(len(choices), f"operation-{step}")], 0)
            share = draws.integers(self.severity, f"level-{step}") / (_LEVELS - 1)
            operations.append(operation)
            strengths.append(AUGMIX.magnitudes(operation, share, draws.uniform(f"sign-{step}") < 0.5, sizes))
        return Steps(np.stack(operations, axis=1), np.stack(strengths, axis=1))

    def apply(self, scene: Scene, parameters: Mixture) -> Scene:
        """Return the mixed batch.

        Raises:
            InputError: masks, boxes or points lie on the pictures and the copies move.
        """
        laid_on = [name for name in ("masks", "boxes", "points") if getattr(scene, name) is not None]
        moves = bool(set(_CHOICES[self.operations]) & set(MOVES))
        if laid_on and moves:
            raise InputError(
                f"augmix mixes copies that moved, so {laid_on[0]} have no one place in the mixture",
                where="augment, augmix",
                mend='write "operations": "still"',
            )
        weights = [per_picture(column, scene.pictures) for column in parameters.weights.T]
        mixed = scene.pictures * weights[0]
        for weight, chain in zip(weights[1:], parameters.chains, strict=True):
            copies = apply_steps(Scene(scene.pictures), chain, Sampling(self.fill, self.interpolation)).pictures
            mixed += copies * weight
        # Weights add up to 1 but for rounding, so that 255 might come out as 254.99998: as torchvision, it is cut off.
        return replace(scene, pictures=mixed.clamp_(0, 255).to(torch.uint8))


AUGMENTATIONS.register("augmix", AugMix, __name__, title="mixed with augmented copies of itself", geometric=True)
