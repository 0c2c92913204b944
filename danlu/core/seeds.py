"""Counter-based random draws: a value depends on (seed, counters, purpose) and on nothing that happened before.

So a draw for one sample is the same whatever the batch size, the worker count or the point at which a run was resumed.
The mixer is SplitMix64's finaliser (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["derive_seed", "integers", "permutation", "random_bits", "uniform"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)


@cache
def _purpose_key(purpose: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little"))


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * _MULTIPLY_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MULTIPLY_2
    return bits ^ (bits >> np.uint64(31))


def random_bits(purpose: str, *counters: ArrayLike) -> NDArray[np.uint64]:
    """Return 64 random bits for each element of the counters, which are broadcast against one another.

    Args:
        purpose: names the use, so that two uses of the same counters are independent.
        counters: integers or integer arrays, usually (seed, epoch, sample, repeat); negative ones wrap.
    """
    with np.errstate(over="ignore"):
        bits = np.atleast_1d(_purpose_key(purpose))
        for counter in counters:
            value = np.asarray(counter)
            if value.dtype.kind not in "iu":
                raise TypeError(f"counters are integers, got {value.dtype} for {purpose!r}")
            bits = _mix((bits ^ _mix(value.astype(np.uint64) + _GOLDEN)) + _GOLDEN)
    shape = np.broadcast_shapes(*(np.shape(counter) for counter in counters)) if counters else ()
    return bits.reshape(shape) if shape == () else np.broadcast_to(bits, shape)


def uniform(purpose: str, *counters: ArrayLike) -> NDArray[np.float64]:
    """Return uniform values in [0, 1) with 53 random bits, one for each element of the broadcast counters."""
    return (random_bits(purpose, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(high: int, purpose: str, *counters: ArrayLike) -> NDArray[np.int64]:
    """Return integers in [0, high), one for each element of the broadcast counters."""
    if high < 1:
        raise ValueError(f"high must be at least 1, got {high}")
    return np.asarray(np.floor(uniform(purpose, *counters) * high), dtype=np.int64)


def permutation(length: int, purpose: str, *counters: int) -> NDArray[np.int64]:
    """Return a permutation of ``range(length)`` that depends on purpose and counters alone."""
    keys = random_bits(purpose, *counters, np.arange(length, dtype=np.int64))
    return np.argsort(keys, kind="stable").astype(np.int64)


def derive_seed(purpose: str, *counters: int) -> int:
    """Return a 63-bit seed for a library's own generator, e.g. ``torch.manual_seed``.

    It is :func:`random_bits` of single counters, computed without arrays: a training asks for one each step.
    """
    bits = int(_purpose_key(purpose))
    for counter in counters:
        bits = _mix_one(((bits ^ _mix_one((int(counter) + _GOLDEN_INT) & _ALL)) + _GOLDEN_INT) & _ALL)
    return bits >> 1


_ALL = 2**64 - 1
_GOLDEN_INT, _MULTIPLY_1_INT, _MULTIPLY_2_INT = int(_GOLDEN), int(_MULTIPLY_1), int(_MULTIPLY_2)


def _mix_one(bits: int) -> int:
    bits = ((bits ^ (bits >> 30)) * _MULTIPLY_1_INT) & _ALL
    bits = ((bits ^ (bits >> 27)) * _MULTIPLY_2_INT) & _ALL
    return bits ^ (bits >> 31)
