"""Deep Compression's coding: Huffman codes of shared weights and of relative indices with filler zeros.

Han, Mao, Dally, "Deep Compression", ICLR 2016, section 4. A tensor of mostly zeros is stored as entries (zeros before,
level); the zeros before are fewer than 2^b, and where more stand in a row, entries of value zero fill them. b is chosen
for each tensor by the bytes it gives. A tensor with few zeros is stored as one level a weight. Where the values are not
shared they are stored as they are, and only the indices are coded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.compress.codings import Coded, Hint
from danlu.compress.codings.levels import MOST_LEVELS, levels_of, read_book
from danlu.compress.codings.prefix import decode_symbols, encode_symbols
from danlu.compress.codings.reader import Reader, varint

__all__ = ["decode", "encode", "entries_of", "gap_bits"]

_NUMBER = 2
_DENSE, _SPARSE, _VALUES = 0, 1, 2
_GAP_BITS = range(2, 13)


def encode(values: NDArray[Any], hint: Hint | None) -> Coded | None:
    """Return the payload, or None for tensors whose values are neither few nor mostly zero."""
    levels = levels_of(values, hint)
    if levels is None:
        return _pruned(values)
    book = levels.book.payload()
    bits = max(1, (levels.book.count - 1).bit_length())
    facts = {"coding": "huffman", "bits": bits, "levels": levels.book.count}
    if levels.places is None:
        table, stream = encode_symbols(levels.symbols, levels.book.count)
        return _coded(_DENSE, book, [], [table], b"", stream, facts)
    width, gaps, is_filler = entries_of(levels.places)
    # Level 0 is the filler's; the others move up by one.
    symbols = np.zeros(len(gaps), dtype=np.int64)
    symbols[~is_filler] = levels.symbols.astype(np.int64) + 1
    gap_table, gap_stream = encode_symbols(gaps, 1 << width)
    table, stream = encode_symbols(symbols, levels.book.count + 1)
    facts |= {"index_bits": width, "fillers": int(is_filler.sum())}
    return _coded(_SPARSE, book, [width, len(gaps)], [gap_table, table], gap_stream, stream, facts)


def _pruned(values: NDArray[Any]) -> Coded | None:
    """Return the payload of a tensor that is only pruned: coded indices and the values as they are."""
    if values.dtype != np.float32 or not values.size:
        return None
    flat = np.ascontiguousarray(values).reshape(-1)
    places = np.flatnonzero(flat.view(np.uint32))
    if 2 * len(places) > flat.size:
        return None
    width, gaps, is_filler = entries_of(places)
    table, stream = encode_symbols(gaps, 1 << width)
    kept = np.zeros(len(gaps), dtype="<f4")
    kept[~is_filler] = flat[places]
    facts = {"coding": "huffman", "bits": 32, "index_bits": width, "fillers": int(is_filler.sum())}
    return _coded(_VALUES, b"", [width, len(gaps)], [table], stream, kept.tobytes(), facts)


def _coded(
    mode: int, book: bytes, numbers: list[int], tables: list[bytes], indices: bytes, weights: bytes, facts: Any
) -> Coded:
    head = varint(mode) + b"".join(varint(number) for number in numbers)
    split = {
        "indices": len(indices),
        "weights": len(weights),
        "codebooks": len(book),
        "tables": len(head) + sum(map(len, tables)),
    }
    return Coded(_NUMBER, b"".join([head, book, *tables, indices, weights]), split, facts)


def gap_bits(zeros: NDArray[np.int64]) -> int:
    """Return the b that codes runs of zeros in the fewest bits, by the entropy of what they become."""
    costs = {}
    for width in _GAP_BITS:
        entries = len(zeros) + int((zeros >> width).sum())
        counts = np.bincount(zeros & (1 << width) - 1, minlength=1 << width).astype(np.float64)
        counts[-1] += entries - len(zeros)
        share = counts[counts > 0] / max(1, entries)
        # About two bits for the level of a filler, four for the length of a code.
        fillers = entries - len(zeros)
        costs[width] = entries * float(-(share * np.log2(share)).sum()) + 2 * fillers + 4 * (1 << width)
        if not fillers:
            break
    return min(costs, key=lambda width: costs[width])


def entries_of(places: NDArray[np.int64]) -> tuple[int, NDArray[np.int64], NDArray[np.bool_]]:
    """Return (b, zeros before each entry [M], whether it is a filler [M]) for ``places`` [N], sorted.

    A filler stands for 2^b zeros: 2^b - 1 before it, and itself.
    """
    zeros = np.diff(places, prepend=-1) - 1
    width = gap_bits(zeros)
    fillers = zeros >> width
    ends = np.cumsum(fillers + 1) - 1
    gaps = np.full(int(ends[-1]) + 1 if len(ends) else 0, (1 << width) - 1, dtype=np.int64)
    gaps[ends] = zeros & (1 << width) - 1
    is_filler = np.ones(len(gaps), dtype=np.bool_)
    is_filler[ends] = False
    return width, gaps, is_filler


def decode(reader: Reader, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the tensor."""
    size = int(np.prod(shape, dtype=np.int64))
    mode = reader.number(_VALUES, "the mode")
    if dtype != np.float32:
        raise reader.error(f"a tensor of {dtype} is never coded so")
    if mode == _DENSE:
        book = read_book(reader, shape)
        if size and not book.count:
            raise reader.error("no levels for the weights")
        symbols = _read(reader, size, book.count)
        return book.fill(symbols, shape)
    width = reader.number(_GAP_BITS[-1], "the bits of an index")
    count = reader.number(size, "the number of entries")
    if mode == _VALUES:
        places = _places(_read(reader, count, 1 << width), size, reader)
        found = np.zeros(size, dtype=np.float32)
        found[places] = reader.array(count, "f4")
        return found.reshape(shape)
    book = read_book(reader, shape)
    tables = Reader(reader.data, reader.where)
    tables.at = reader.at
    reader.take(_table_bytes(reader, 1 << width))
    second = Reader(reader.data, reader.where)
    second.at = reader.at
    reader.take(_table_bytes(reader, book.count + 1))
    places = _places(decode_symbols(reader, tables, count, 1 << width), size, reader)
    symbols = decode_symbols(reader, second, count, book.count + 1)
    is_kept = symbols > 0
    found = np.zeros(size, dtype=np.float32)
    kept = places[is_kept]
    found[kept] = book.pick(symbols[is_kept] - 1, kept, shape)
    return found.reshape(shape)


def _read(reader: Reader, total: int, count: int) -> NDArray[np.uint16]:
    """Return the symbols of a table that is followed by its stream."""
    table = Reader(reader.data, reader.where)
    table.at = reader.at
    reader.take(_table_bytes(reader, count))
    return decode_symbols(reader, table, total, count)


def _table_bytes(reader: Reader, count: int) -> int:
    """Return the length of the table at the reader, which stays where it is."""
    ahead = Reader(reader.data, reader.where)
    ahead.at = reader.at
    if not ahead.array((count + 1) // 2, "u1").any():
        ahead.number(MOST_LEVELS, "the only symbol")
    return ahead.at - reader.at


def _places(gaps: NDArray[np.uint16], size: int, reader: Reader) -> NDArray[np.int64]:
    places = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if len(places) and int(places[-1]) >= size:
        raise reader.error(f"indices lead to place {int(places[-1]):,} of {size:,}")
    return places
