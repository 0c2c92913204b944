"""What is common to the codings of shared weights: where values are not zero, and which of a few levels each one is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.compress.codings import Hint
from danlu.compress.codings.reader import Reader, varint

__all__ = ["MOST_LEVELS", "Book", "Levels", "levels_of", "read_book"]

MOST_LEVELS = 4096
# So many values are looked at first: they hold all levels of a shared tensor, or show that it is none.
_SAMPLE = 1 << 18
_BLOCK = 1 << 22
_SPARSE = 0.5


@dataclass(frozen=True)
class Book:
    """The levels: a list of float32 values, or integers in [first, first + count) times a scale.

    Attributes:
        values: float32 [K], or None where there are scales.
        scales: float32 [1] or [channels], or None.
        axis: of the channels.
        first: the integer of symbol 0, where there are scales.
        count: K.
    """

    values: NDArray[np.float32] | None
    scales: NDArray[np.float32] | None
    axis: int
    first: int
    count: int

    def payload(self) -> bytes:
        """Return the codebook's bytes."""
        if self.values is not None:
            small = self.values.astype(np.float16)
            exact = small.astype(np.float32).tobytes() == self.values.tobytes()
            head = varint(1 if exact else 0) + varint(self.count)
            return head + (small.astype("<f2") if exact else self.values.astype("<f4")).tobytes()
        assert self.scales is not None
        head = varint(2) + varint(self.axis) + varint(len(self.scales)) + varint(self.count)
        return head + int(self.first).to_bytes(4, "little", signed=True) + self.scales.astype("<f4").tobytes()

    def fill(self, symbols: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the values of ``symbols``, which are as many as ``shape`` has places."""
        if self.values is not None:
            return np.take(self.values, symbols).reshape(shape)
        assert self.scales is not None
        integers = symbols.reshape(shape).astype(np.float32) + np.float32(self.first)
        return np.asarray(integers * self._broadcast(shape), dtype=np.float32)

    def pick(self, symbols: NDArray[Any], places: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the values of ``symbols`` [N] that stand at ``places`` [N] of the flattened tensor."""
        if self.values is not None:
            return np.take(self.values, symbols)
        assert self.scales is not None
        integers = symbols.astype(np.float32) + np.float32(self.first)
        if len(self.scales) == 1:
            return np.asarray(integers * self.scales[0], dtype=np.float32)
        inner = int(np.prod(shape[self.axis + 1 :], dtype=np.int64))
        return np.asarray(integers * self.scales[places // inner % shape[self.axis]])

    def _broadcast(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        assert self.scales is not None
        if len(self.scales) == 1:
            return self.scales
        return self.scales.reshape([-1 if place == self.axis else 1 for place in range(len(shape))])


@dataclass(frozen=True)
class Levels:
    """A tensor as levels.

    Attributes:
        places: int64 [N], where values are not zero in the flattened tensor; None where zeros are levels too.
        symbols: uint16 [N] or [size], the level of each.
        book: what the levels are.
    """

    places: NDArray[np.int64] | None
    symbols: NDArray[np.uint16]
    book: Book


def levels_of(values: NDArray[Any], hint: Hint | None) -> Levels | None:
    """Return ``values`` (float32) as levels, or None where they are no few levels. Exact to the bit.

    Args:
        values: any shape.
        hint: scales the values are integer multiples of; ignored where that is not exactly so.
    """
    if values.dtype != np.float32 or values.size < 2:
        return None
    flat = np.ascontiguousarray(values).reshape(-1)
    bits = flat.view(np.uint32)
    # By bits, because -0.0 is no zero that could be left out.
    is_sparse = np.count_nonzero(bits) <= _SPARSE * flat.size
    places = np.flatnonzero(bits) if is_sparse else None
    if hint is not None and (scaled := _scaled(values, hint, places)) is not None:
        return scaled
    found = _few(bits if places is None else bits[places])
    if found is None:
        return None
    book, symbols = found
    # In the order of their values, so that neighbours are alike.
    order = np.argsort(book.view(np.float32), kind="stable")
    rank = np.empty(len(book), dtype=np.uint16)
    rank[order] = np.arange(len(book), dtype=np.uint16)
    listed = Book(book.view(np.float32)[order], None, 0, 0, len(book))
    return Levels(places, rank[symbols], listed)


def _few(bits: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], NDArray[np.uint16]] | None:
    """Return the distinct values, sorted, and which of them each one is; None where there are too many."""
    book = np.unique(bits[:_SAMPLE])
    symbols = np.empty(len(bits), dtype=np.uint16)
    begin, find = 0, _finder(book)
    while begin < len(bits):
        if len(book) > MOST_LEVELS or 4 * len(book) > len(bits) + 8:
            return None
        part = bits[begin : begin + _BLOCK]
        symbols[begin : begin + _BLOCK] = place = find(part)
        is_right = np.take(book, place) == part
        if is_right.all():
            begin += _BLOCK
            continue
        # The sample lacked some: all that was found gets its place in the larger book.
        larger = np.union1d(book, part[~is_right])
        symbols[:begin] = np.searchsorted(larger, book).astype(np.uint16)[symbols[:begin]]
        book, find = larger, _finder(larger)
    return None if len(book) > MOST_LEVELS or 2 * len(book) > len(bits) + 2 else (book, symbols)


def _finder(book: NDArray[np.uint32]) -> Callable[[NDArray[np.uint32]], NDArray[Any]]:
    """Return what finds the place of values in ``book``; what is not in it gets any place.

    A multiplication that sends all levels to different slots of a table takes a tenth of the time of a search.
    """
    if not 0 < len(book) <= 1024:
        return lambda values: np.minimum(np.searchsorted(book, values), max(0, len(book) - 1))
    width = 16 if len(book) <= 128 else 20
    for factor in np.random.default_rng(0).integers(1, 2**31, 64, dtype=np.uint32) * np.uint32(2) + np.uint32(1):
        slots = book * factor >> np.uint32(32 - width)
        if len(np.unique(slots)) == len(book):
            table = np.zeros(1 << width, dtype=np.uint16)
            table[slots] = np.arange(len(book), dtype=np.uint16)
            shift = np.uint32(32 - width)
            return lambda values: np.take(table, values * factor >> shift)
    return lambda values: np.minimum(np.searchsorted(book, values), len(book) - 1)


def _scaled(values: NDArray[np.float32], hint: Hint, places: NDArray[np.int64] | None) -> Levels | None:
    scales = np.asarray(hint.scales, dtype=np.float32).reshape(-1)
    channels = values.shape[hint.axis] if values.ndim > hint.axis else 0
    if len(scales) not in (1, channels) or not (scales > 0).all():
        return None
    book = Book(None, scales, hint.axis, 0, 0)
    with np.errstate(all="ignore"):
        integers = np.rint(values / book._broadcast(values.shape))
        exact = (integers * book._broadcast(values.shape)).astype(np.float32).tobytes() == values.tobytes()
    # A whole number has no sign where it is zero.
    if not exact or not integers.size or bool((np.signbit(values) & (values == 0)).any()):
        return None
    listed = integers.reshape(-1) if places is None else integers.reshape(-1)[places]
    first, last = (int(listed.min()), int(listed.max())) if len(listed) else (0, 0)
    if last - first >= MOST_LEVELS or abs(first) > 2**24:
        return None
    symbols = (listed - first).astype(np.uint16)
    return Levels(places, symbols, Book(None, scales, hint.axis, first, last - first + 1))


def read_book(reader: Reader, shape: tuple[int, ...]) -> Book:
    """Return the codebook that :meth:`Book.payload` wrote.

    Raises:
        InputError: it is damaged, or of another shape than the tensor.
    """
    kind = reader.number(2, "the kind of codebook")
    if kind < 2:
        count = reader.number(MOST_LEVELS, "the length of the codebook")
        return Book(reader.array(count, "f2" if kind else "f4").astype(np.float32), None, 0, 0, count)
    axis = reader.number(max(0, len(shape) - 1), "the axis of the scales")
    channels = reader.number(max([1, *shape]), "the number of scales")
    if channels not in (1, shape[axis] if shape else 1):
        raise reader.error(f"{channels} scales do not fit a tensor of shape {list(shape)}")
    count = reader.number(MOST_LEVELS, "the number of levels")
    first = int.from_bytes(reader.take(4), "little", signed=True)
    return Book(None, reader.array(channels, "f4").astype(np.float32), axis, first, count)
