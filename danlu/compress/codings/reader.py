"""Read numbers and arrays from bytes nobody has to trust: every length is checked before anything is allocated."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError

__all__ = ["Reader", "varint"]


def varint(value: int) -> bytes:
    """Return a non-negative integer in 7-bit groups, the lowest first; the top bit says that more follow."""
    if value < 0:
        raise ValueError(f"varint of {value}")
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(found) + bytes([value])


class Reader:
    """A position in bytes.

    Args:
        data: what is read; never copied.
        where: what errors call it.
    """

    def __init__(self, data: memoryview, where: str) -> None:
        self.data, self.where, self.at = data, where, 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self.data) - self.at

    def error(self, what: str) -> InputError:
        """Return an error that names the place."""
        return InputError(f"{what}, at byte {self.at}", where=self.where, mend="get the file again")

    def take(self, count: int) -> memoryview:
        """Return the next ``count`` bytes.

        Raises:
            InputError: there are fewer.
        """
        if count < 0 or count > self.left:
            raise self.error(f"ends too early: {count:,} bytes are announced, {self.left:,} are there")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, largest: int, what: str = "a number") -> int:
        """Return the next :func:`varint`, at most ``largest``.

        Raises:
            InputError: it is larger, or the bytes end.
        """
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 63:
                raise self.error(f"{what} has more than 64 bits")
        if value > largest:
            raise self.error(f"{what} is {value:,}, at most {largest:,} can be right")
        return value

    def array(self, count: int, dtype: str | np.dtype[Any]) -> NDArray[Any]:
        """Return ``count`` little-endian values as a read-only view.

        Raises:
            InputError: the bytes end before.
        """
        kind = np.dtype(dtype).newbyteorder("<")
        return np.frombuffer(self.take(count * kind.itemsize), dtype=kind)

    def done(self) -> None:
        """Refuse bytes that are left over.

        Raises:
            InputError: there are some.
        """
        if self.left:
            raise self.error(f"has {self.left:,} bytes too many")
