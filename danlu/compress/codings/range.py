"""Adaptive range coding of shared weights: what was coded so far says what is likely next.

Martin, "Range encoding: an algorithm for removing redundancy from a digitised message", 1979; the coder is that of the
library constriction (Bamler 2022). A tensor is coded row by row (a row is what makes one output). Where a weight stands
is coded as a bit a place: its probability is the row's density times how often the column, and its neighbours, had a
weight in the rows before. Levels are coded by how often each came before. So there are no tables, and pixels that no
unit looks at cost next to nothing. Tensors of more than a million weights are coded as gaps, as by Deep Compression,
with fixed frequencies, because a bit a place would take too long.

Encoder and decoder run the same lines. Probabilities are made of integer counts by additions, products and quotients
of doubles alone, which every machine rounds alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.compress.codings import Coded, Hint
from danlu.compress.codings.huffman import entries_of
from danlu.compress.codings.levels import Levels, levels_of, read_book
from danlu.compress.codings.reader import Reader, varint
from danlu.core.errors import InputError

__all__ = ["decode", "encode"]

_NUMBER = 3
_CELLS, _GAPS, _DENSE = 0, 1, 2
_MOST_CELLS, _MOST_ROWS = 1 << 20, 1 << 12
_GAP_BITS = 12
# What tensors without rows are cut into.
_SHORT_ROW = 8
# How many rows' worth of counts a column begins with, in eighths; and the distances of neighbours that are tried:
# the widths of pictures and maps.
_PRIORS = (1, 4, 16, 64)
_STRIDES = (0, 1, 4, 5, 8, 14, 16, 28, 32)
_LEAST = 1e-5

Bits = NDArray[np.int32]


def _constriction() -> Any:
    import constriction  # of the extra `compress`; whoever calls says what to install

    return constriction.stream


class _Encoder:
    """Takes symbols and gives them back, as the decoder does."""

    def __init__(self) -> None:
        self.stream = _constriction()
        self.coder = self.stream.queue.RangeEncoder()
        self.bernoulli = self.stream.model.Bernoulli(perfect=False)

    def bits(self, count: int, p: NDArray[np.float64], known: NDArray[Any] | None) -> Bits:
        assert known is not None
        self.coder.encode(known.astype(np.int32), self.bernoulli, p)
        del count
        return known.astype(np.int32)

    def symbols(self, count: int, weights: NDArray[np.float64], known: NDArray[Any] | None) -> Bits:
        assert known is not None
        self.coder.encode(known.astype(np.int32), self.stream.model.Categorical(weights, perfect=False))
        del count
        return known.astype(np.int32)

    def payload(self) -> bytes:
        return np.asarray(self.coder.get_compressed()).astype("<u4").tobytes()


class _Decoder:
    """Gives the symbols that an encoder took."""

    def __init__(self, words: NDArray[np.uint32]) -> None:
        self.stream = _constriction()
        self.coder = self.stream.queue.RangeDecoder(words)
        self.bernoulli = self.stream.model.Bernoulli(perfect=False)

    def bits(self, count: int, p: NDArray[np.float64], known: NDArray[Any] | None) -> Bits:
        del count, known
        found: Bits = self.coder.decode(self.bernoulli, p)
        return found

    def symbols(self, count: int, weights: NDArray[np.float64], known: NDArray[Any] | None) -> Bits:
        del known
        found: Bits = self.coder.decode(self.stream.model.Categorical(weights, perfect=False), count)
        return found


@dataclass(frozen=True)
class _Shape:
    """How a tensor is cut into rows: ``rows`` of ``width``, the last one may be shorter; and what is learned from."""

    size: int
    width: int
    prior: int
    stride: int
    levels: int

    @property
    def rows(self) -> int:
        return -(-self.size // self.width)


def _cells(
    coder: _Encoder | _Decoder, shape: _Shape, mask: Bits | None, symbols: Bits | None
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Code a tensor, or decode it where ``mask`` [size] and ``symbols`` [N] are None; return both."""
    width, classes = shape.width, shape.width.bit_length() + 2
    found, parts = np.zeros(shape.size, dtype=np.bool_), []
    columns, totals = np.zeros(width, dtype=np.int64), 0
    seen, seen_classes = np.ones(max(2, shape.levels), dtype=np.int64), np.ones(classes, dtype=np.int64)
    done = 0
    for row in range(shape.rows):
        begin, end = row * width, min(shape.size, (row + 1) * width)
        known = None if mask is None else mask[begin:end]
        density = _class_of(known, classes) if known is not None else None
        (density,) = coder.symbols(1, seen_classes.astype(np.float64), None if density is None else _one(density))
        seen_classes[density] += 2
        if density == 0:
            continue
        here = np.ones(end - begin, dtype=np.int32)
        if density < classes - 1:
            p = _chances(columns, totals, shape, 0.75 * (1 << int(density)), end - begin)
            here = coder.bits(end - begin, p, known)
        count = int(here.sum())
        values = None if symbols is None else symbols[done : done + count]
        if count:
            values = coder.symbols(count, seen.astype(np.float64), values)
            seen += 2 * np.bincount(values, minlength=len(seen))
            parts.append(values)
        found[begin:end] = here.astype(np.bool_)
        columns[: end - begin] += here
        totals += count
        done += count
    return found, np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)


def _one(value: int) -> Bits:
    return np.array([value], dtype=np.int32)


def _class_of(row: Bits, classes: int) -> int:
    """Return 0 for a row of zeros, the last class for one without zeros, else the bits of its count."""
    count = int(row.sum())
    return classes - 1 if count == len(row) else count.bit_length()


def _chances(
    columns: NDArray[np.int64], totals: int, shape: _Shape, expected: float, count: int
) -> NDArray[np.float64]:
    """Return the probability of a weight in each place of a row with about ``expected`` of them."""
    near, norm = 4 * columns, 4
    if shape.stride:
        for distance, weight in ((1, 2), (shape.stride, 2)):
            if distance < len(columns):
                near[distance:] += weight * columns[:-distance]
                near[:-distance] += weight * columns[distance:]
                norm += 2 * weight
    weights = (8 * near + norm * shape.prior) / (norm * (8.0 * totals + shape.prior * len(columns)))
    p: NDArray[np.float64] = np.clip(expected * weights[:count], _LEAST, 1 - _LEAST)
    return p


def encode(values: NDArray[Any], hint: Hint | None) -> Coded | None:
    """Return the payload, or None for tensors whose values are no few levels."""
    levels = levels_of(values, hint)
    if levels is None:
        return None
    facts = {
        "coding": "range",
        "bits": max(1, (levels.book.count - 1).bit_length()),
        "levels": levels.book.count,
    }
    book = levels.book.payload()
    rows = values.shape[0] if values.ndim > 1 else 0
    width = values.size // rows if rows else _SHORT_ROW
    if values.size <= _MOST_CELLS and rows <= _MOST_ROWS and -(-values.size // width) <= _MOST_ROWS:
        head, stream = _smallest(levels, values.size, width)
        tables = b""
    else:
        head, tables, stream = _frequencies(levels)
    split = {"weights": len(stream), "codebooks": len(book), "tables": len(head) + len(tables)}
    return Coded(_NUMBER, head + book + tables + stream, split, facts)


def _smallest(levels: Levels, size: int, width: int) -> tuple[bytes, bytes]:
    """Return (head, stream) of the neighbourhood and prior that give the fewest bytes."""
    mask = np.ones(size, dtype=np.int32)
    if levels.places is not None:
        mask[:] = 0
        mask[levels.places] = 1
    symbols = levels.symbols.astype(np.int32)
    best = _tried(_Shape(size, width, _PRIORS[1], 0, levels.book.count), mask, symbols)
    # One after the other: the neighbours that suit one prior suit the next.
    for stride in _STRIDES[1:]:
        if stride < width:
            best = _better(best, _tried(replace(best[2], stride=stride), mask, symbols))
    for prior in _PRIORS:
        best = _better(best, _tried(replace(best[2], prior=prior), mask, symbols))
    return best[0], best[1]


def _tried(shape: _Shape, mask: Bits, symbols: Bits) -> tuple[bytes, bytes, _Shape]:
    encoder = _Encoder()
    _cells(encoder, shape, mask, symbols)
    return varint(_CELLS) + varint(shape.prior) + varint(shape.stride), encoder.payload(), shape


def _better(old: tuple[bytes, bytes, _Shape], new: tuple[bytes, bytes, _Shape]) -> tuple[bytes, bytes, _Shape]:
    return new if len(new[1]) < len(old[1]) else old


def _frequencies(levels: Levels) -> tuple[bytes, bytes, bytes]:
    """Return (head, tables, stream) with fixed frequencies: of levels, and of gaps where most weights are zero."""
    encoder = _Encoder()
    if levels.places is None:
        table = _table(levels.symbols, levels.book.count)
        encoder.symbols(0, _weights(table), levels.symbols)
        return varint(_DENSE), table.tobytes(), encoder.payload()
    bits, gaps, is_filler = entries_of(levels.places)
    symbols = np.zeros(len(gaps), dtype=np.int32)
    symbols[~is_filler] = levels.symbols.astype(np.int32) + 1
    gap_table, table = _table(gaps, 1 << bits), _table(symbols, levels.book.count + 1)
    encoder.symbols(0, _weights(gap_table), gaps)
    encoder.symbols(0, _weights(table), symbols)
    head = varint(_GAPS) + varint(bits) + varint(len(gaps))
    return head, gap_table.tobytes() + table.tobytes(), encoder.payload()


def _table(symbols: NDArray[Any], count: int) -> NDArray[np.uint8]:
    """Return frequencies in one byte each; none is 0 that comes."""
    counts = np.bincount(symbols, minlength=count)
    scaled = np.minimum(255, -(-255 * counts // max(1, int(counts.max(initial=1)))))
    return np.asarray(scaled, dtype=np.uint8)


def _weights(table: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return frequencies as the coder takes them: two at least, and not all zero."""
    weights = np.zeros(max(2, len(table)), dtype=np.float64)
    weights[: len(table)] = table
    weights[0] += not table.any()
    return weights


def decode(reader: Reader, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the tensor."""
    size = int(np.prod(shape, dtype=np.int64))
    mode = reader.number(_DENSE, "the mode")
    if dtype != np.float32 or not size:
        raise reader.error(f"a tensor of {dtype} {list(shape)} is never coded so")
    try:
        return _decoded(reader, mode, size, shape)
    except (AssertionError, ValueError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise reader.error(f"the stream is not of this tensor ({error})") from error


def _decoded(reader: Reader, mode: int, size: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if mode == _CELLS:
        prior, stride = reader.number(2**16, "the prior"), reader.number(2**16, "the stride")
        book = read_book(reader, shape)
        width = size // shape[0] if len(shape) > 1 else _SHORT_ROW
        if not prior or size > _MOST_CELLS or -(-size // width) > _MOST_ROWS:
            raise reader.error(f"a tensor of shape {list(shape)} is never coded place by place")
        cells = _Shape(size, width, prior, stride, book.count)
        is_kept, symbols = _cells(_Decoder(_words(reader)), cells, None, None)
        places = np.flatnonzero(is_kept)
        found = np.zeros(size, dtype=np.float32)
        found[places] = book.pick(symbols, places, shape)
        return found.reshape(shape)
    if mode == _DENSE:
        book = read_book(reader, shape)
        weights = _weights(reader.array(book.count, "u1"))
        return book.fill(_Decoder(_words(reader)).symbols(size, weights, None), shape)
    bits, count = reader.number(_GAP_BITS, "the bits of an index"), reader.number(size, "the number of entries")
    book = read_book(reader, shape)
    gap_weights = _weights(reader.array(1 << bits, "u1"))
    weights = _weights(reader.array(book.count + 1, "u1"))
    decoder = _Decoder(_words(reader))
    places = np.cumsum(decoder.symbols(count, gap_weights, None).astype(np.int64) + 1) - 1
    symbols = decoder.symbols(count, weights, None)
    if len(places) and int(places[-1]) >= size:
        raise reader.error(f"indices lead to place {int(places[-1]):,} of {size:,}")
    is_kept = symbols > 0
    found, kept = np.zeros(size, dtype=np.float32), places[is_kept]
    found[kept] = book.pick(symbols[is_kept] - 1, kept, shape)
    return found.reshape(shape)


def _words(reader: Reader) -> NDArray[np.uint32]:
    """Return the rest of the payload as the coder's words."""
    if reader.left % 4:
        raise reader.error("the stream is no whole number of words")
    return reader.array(reader.left // 4, "u4").astype(np.uint32)
