"""Two bytes a value, where every value is one that float16 holds exactly (or an integer that int16 holds)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.compress.codings import Coded, Hint
from danlu.compress.codings.reader import Reader

__all__ = ["decode", "encode"]


def encode(values: NDArray[Any], hint: Hint | None) -> Coded | None:
    """Return the values as float16 or int16, or None where bits would be lost."""
    del hint
    with np.errstate(over="ignore", invalid="ignore"):
        small = values.astype(_small(values.dtype))
        # Compared as bytes: -0.0 equals 0.0 and is not the same.
        if small.astype(values.dtype).tobytes() != np.ascontiguousarray(values).tobytes():
            return None
    payload = np.ascontiguousarray(small).tobytes()
    return Coded(1, payload, {"weights": len(payload)}, {"bits": 16})


def decode(reader: Reader, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the values."""
    found = reader.array(int(np.prod(shape, dtype=np.int64)), _small(dtype))
    return found.astype(dtype).reshape(shape)


def _small(dtype: np.dtype[Any]) -> str:
    return "<f2" if dtype.kind == "f" else "<i2"
