"""The values as they are, little-endian."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.compress.codings import Coded, Hint
from danlu.compress.codings.reader import Reader

__all__ = ["decode", "encode"]


def encode(values: NDArray[Any], hint: Hint | None) -> Coded | None:
    """Return the values' bytes."""
    del hint
    payload = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes()
    return Coded(0, payload, {"weights": len(payload)}, {"bits": 8 * values.dtype.itemsize})


def decode(reader: Reader, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the values."""
    found = reader.array(int(np.prod(shape, dtype=np.int64)), dtype)
    return found.astype(dtype).reshape(shape)
