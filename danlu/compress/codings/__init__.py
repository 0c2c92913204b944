"""How one tensor becomes bytes and back, bit for bit: one coding a file, the smallest result is kept.

A coding takes a numpy array and gives a payload; it may decline. Every payload can be read by a process that knows
nothing but the coding's number, the tensor's type and its shape. No coding loops over weights in Python.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from danlu.compress.codings.reader import Reader
from danlu.core.errors import InputError

__all__ = ["CODERS", "Coded", "Coding", "Hint", "decode_tensor", "encode_tensor"]

Array = NDArray[Any]

# What may be asked for -> the entropy coders the writer then chooses from, by measured bytes.
CODERS: Mapping[str, tuple[str, ...]] = {
    "auto": ("raw", "half", "huffman", "range"),
    "huffman": ("raw", "half", "huffman"),
    "range": ("raw", "half", "range"),
    "none": ("raw", "half"),
}
# The number stands in files: it is never given to another coding.
_NUMBERS = {"raw": 0, "half": 1, "huffman": 2, "range": 3}


@dataclass(frozen=True)
class Hint:
    """What a method knows about a tensor's values: each is an integer times a scale, in float32.

    Attributes:
        scales: float32 [1], or [shape[axis]] for one scale a channel.
        axis: the dimension the scales belong to.
    """

    scales: NDArray[np.float32]
    axis: int = 0


@dataclass(frozen=True)
class Coded:
    """A tensor's payload, and what its bytes are for.

    Attributes:
        number: of the coding.
        payload: the bytes.
        split: bytes by purpose: ``indices``, ``weights``, ``codebooks``, ``tables``; they add up to the payload.
        facts: plain values for the report, e.g. ``bits`` before coding.
    """

    number: int
    payload: bytes
    split: dict[str, int]
    facts: dict[str, Any] = field(default_factory=dict)


class Coding(Protocol):
    """One coding: a module with these two functions."""

    def encode(self, values: Array, hint: Hint | None) -> Coded | None:
        """Return the payload of ``values``, or None where this coding cannot hold them exactly."""
        ...

    def decode(self, reader: Reader, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
        """Return what :meth:`encode` was given; raise InputError where the payload is damaged or hostile."""
        ...


@cache
def _coding(name: str) -> Any:
    return importlib.import_module(f"danlu.compress.codings.{name}")


def encode_tensor(values: Array, hint: Hint | None = None, coder: str = "auto") -> Coded:
    """Return the smallest payload among the codings that ``coder`` names.

    Args:
        values: of any numeric type and shape.
        hint: see :class:`Hint`.
        coder: one of :data:`CODERS`.

    Raises:
        InputError: an unknown coder, or one whose library is not installed.
    """
    if coder not in CODERS:
        raise InputError(f"unknown coder {coder!r}", where="coder", allowed=CODERS)
    found: list[Coded] = []
    for name in CODERS[coder]:
        try:
            one: Coded | None = _coding(name).encode(values, hint)
        except ImportError as error:
            if coder != "auto":
                what = f"{name} coding needs a package that is not installed ({error.name})"
                raise InputError(what, where="coder", mend="pip install 'danlu[compress]'") from error
            continue
        if one is not None:
            found.append(one)
    return min(found, key=lambda coded: len(coded.payload))


def decode_tensor(number: int, payload: memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], where: str) -> Array:
    """Return the tensor of one payload.

    Raises:
        InputError: an unknown coding, or a payload that is damaged.
    """
    names = {value: name for name, value in _NUMBERS.items()}
    if number not in names:
        what = f"coding number {number} is not known"
        raise InputError(what, where=where, allowed=names, mend="use a newer version of danlu")
    reader = Reader(payload, where)
    try:
        values: Array = _coding(names[number]).decode(reader, dtype, shape)
    except ImportError as error:
        what = f"is coded by a package that is not installed ({error.name})"
        raise InputError(what, where=where, mend="pip install 'danlu[compress]'") from error
    reader.done()
    return values
