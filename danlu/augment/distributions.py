"""Draws that are not uniform, each made of a fixed number of counter-based uniform ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from danlu.augment.base import Draws

__all__ = ["dirichlet", "gamma", "normal"]

# One try is taken with more than 95 %; that all of these fail happens once in 10^20 draws.
_TRIES = 16


def normal(draws: Draws, what: str) -> NDArray[np.float64]:
    """Return [B] standard normal values (Box and Muller, 1958)."""
    radius = np.sqrt(-2.0 * np.log1p(-draws.uniform(f"{what}/radius")))
    return np.asarray(radius * np.cos(2.0 * np.pi * draws.uniform(f"{what}/angle")), dtype=np.float64)


def gamma(draws: Draws, shape: float, what: str) -> NDArray[np.float64]:
    """Return [B] values of the gamma distribution with ``shape`` > 0 and scale 1.

    Source: Marsaglia and Tsang, A Simple Method for Generating Gamma Variables (2000).
    """
    boosted = shape if shape >= 1.0 else shape + 1.0
    d = boosted - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    values = np.full(len(draws.samples), d)
    open_ = np.ones(len(draws.samples), dtype=np.bool_)
    for attempt in range(_TRIES):
        x = normal(draws, f"{what}/{attempt}")
        v = (1.0 + c * x) ** 3
        u = 1.0 - draws.uniform(f"{what}/{attempt}/accept")
        positive = np.where(v > 0, v, 1.0)
        taken = open_ & (v > 0) & (np.log(u) < 0.5 * x * x + d - d * positive + d * np.log(positive))
        values[taken] = d * v[taken]
        open_ &= ~taken
        if not open_.any():
            break
    if shape < 1.0:
        values = values * (1.0 - draws.uniform(f"{what}/boost")) ** (1.0 / shape)
    return values


def dirichlet(draws: Draws, shape: float, count: int, what: str) -> NDArray[np.float64]:
    """Return [B, count] weights that add up to 1, of the symmetric Dirichlet distribution with ``shape`` > 0."""
    parts = np.stack([gamma(draws, shape, f"{what}/{k}") for k in range(count)], axis=1)
    parts = np.maximum(parts, np.finfo(np.float64).tiny)
    return np.asarray(parts / parts.sum(axis=1, keepdims=True), dtype=np.float64)
