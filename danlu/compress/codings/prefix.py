"""Canonical Huffman codes over numpy arrays: many lanes are decoded in step, so no loop runs over symbols.

Huffman, "A Method for the Construction of Minimum-Redundancy Codes", 1952. A stream is cut into lanes of 1,024 symbols
that begin at whole bytes. Each step looks the next symbol of every lane up in a table, by the next 15 bits of the lane.
Code lengths are at most 15; only they are stored (four bits each), because a canonical code follows from them.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.compress.codings.reader import Reader, varint

__all__ = ["LONGEST", "decode_symbols", "encode_symbols", "lengths_of"]

LONGEST = 15
_LANE = 1024
# Lanes that are decoded at once, which bounds what lies in memory beside the symbols, and symbols that are encoded at
# once: few enough to stay in a processor's cache.
_LANES = 2048
_AT_ONCE = 64 * _LANE


def lengths_of(counts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the length of each symbol's code [K]: Huffman's, at most 15; 0 for a symbol that never comes.

    A symbol that comes alone has a code of no bits.
    """
    counts = counts.astype(np.int64)
    lengths = np.zeros(len(counts), dtype=np.uint8)
    used = np.flatnonzero(counts)
    if len(used) < 2:
        return lengths
    while True:
        lengths[used] = _huffman(counts[used].tolist())
        if lengths.max() <= LONGEST:
            return lengths
        # Flatter counts give shorter codes; what this costs is far below one per cent.
        counts[used] = (counts[used] + 1) // 2


def _huffman(counts: list[int]) -> list[int]:
    """Return code lengths of two and more symbols, whose number is that of a codebook and not of weights."""
    heap = [(count, place, place) for place, count in enumerate(counts)]
    heapq.heapify(heap)
    parents: dict[int, int] = {}
    fresh = len(counts)
    while len(heap) > 1:
        (a, _, left), (b, _, right) = heapq.heappop(heap), heapq.heappop(heap)
        parents[left] = parents[right] = fresh
        heapq.heappush(heap, (a + b, fresh, fresh))
        fresh += 1
    depths = {fresh - 1: 0}
    for node in range(fresh - 2, -1, -1):
        depths[node] = depths[parents[node]] + 1
    return [depths[node] for node in range(len(counts))]


def _codes(lengths: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the canonical code of each symbol [K]: by length, then by symbol."""
    order = np.lexsort((np.arange(len(lengths)), lengths))
    order = order[lengths[order] > 0]
    # In units of the longest code, each code begins where the one before it ends.
    widths = np.uint64(1) << (LONGEST - lengths[order]).astype(np.uint64)
    starts = np.cumsum(widths) - widths
    codes = np.zeros(len(lengths), dtype=np.uint64)
    codes[order] = starts >> (LONGEST - lengths[order]).astype(np.uint64)
    return codes


def encode_symbols(symbols: NDArray[Any], count: int) -> tuple[bytes, bytes]:
    """Return (table, stream) of ``symbols`` [N], integers in [0, count)."""
    counts = np.zeros(count, dtype=np.int64)
    for begin in range(0, len(symbols), _AT_ONCE):  # bincount works on a copy in 64 bits
        counts += np.bincount(symbols[begin : begin + _AT_ONCE], minlength=count)
    lengths = lengths_of(counts)
    padded = np.concatenate([lengths, np.zeros(count % 2, dtype=np.uint8)])
    table = (padded[0::2] << 4 | padded[1::2]).tobytes()
    if not lengths.any():
        # One symbol for all: its number, and no bits.
        return table + varint(int(symbols[0]) if len(symbols) else 0), b""
    codes, sizes, parts = _codes(lengths), [], []
    for begin in range(0, len(symbols), _AT_ONCE):
        lane_bytes, data = _pack(symbols[begin : begin + _AT_ONCE], codes, lengths)
        sizes.append(lane_bytes)
        parts.append(data)
    return table, np.concatenate(sizes).astype("<u2").tobytes() + b"".join(parts)


def _pack(
    symbols: NDArray[Any], codes: NDArray[np.uint64], lengths: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], bytes]:
    """Return the bytes of each lane, and the lanes one after the other."""
    # Two symbols at a time are one of at most 30 bits: half the work. A lane holds whole pairs.
    first, second = symbols[0::2], symbols[1::2]
    width, code = lengths[first].astype(np.int64), codes[first]
    width[: len(second)] += lengths[second]
    code[: len(second)] = code[: len(second)] << lengths[second].astype(np.uint64) | codes[second]
    starts = np.cumsum(width)
    total_bits = int(starts[-1])
    starts -= width
    lane_starts = starts[:: _LANE // 2]
    lane_bytes = (np.diff(np.append(lane_starts, total_bits)) + 7) // 8
    # Each lane moves to the whole byte it begins at.
    moved = 8 * (np.cumsum(lane_bytes) - lane_bytes) - lane_starts
    starts += np.repeat(moved, _LANE // 2)[: len(starts)]
    word = starts >> 5
    code <<= ((64 - width) - (starts & 31)).astype(np.uint64)
    total = int(lane_bytes.sum())
    words = -(-total // 4) + 2
    # The bits of different symbols do not overlap, so their sum is exact in a double.
    packed = np.bincount(word, weights=code >> np.uint64(32), minlength=words)
    packed[1:] += np.bincount(word, weights=code & np.uint64(0xFFFFFFFF), minlength=words)[:-1]
    return lane_bytes, packed.astype(">u4").tobytes()[:total]


def decode_symbols(reader: Reader, table: Reader, total: int, count: int) -> NDArray[np.uint16]:
    """Return the ``total`` symbols that :func:`encode_symbols` was given.

    Args:
        reader: at the stream.
        table: at the table.
        total: how many symbols; the caller has checked that the file may ask for so many.
        count: symbols are in [0, count), at most 65,536.

    Raises:
        InputError: the table is no code, or the stream is not of these symbols.
    """
    pairs = table.array((count + 1) // 2, "u1")
    lengths = np.stack([pairs >> 4, pairs & 15], axis=1).reshape(-1)[:count].astype(np.uint8)
    if not lengths.any():
        return np.full(total, table.number(max(0, count - 1), "the only symbol"), dtype=np.uint16)
    if int((1 << (LONGEST - lengths[lengths > 0].astype(np.int64))).sum()) != 1 << LONGEST:
        raise table.error("the table of code lengths is no complete code")
    order = np.lexsort((np.arange(count), lengths))
    order = order[lengths[order] > 0]
    widths = 1 << (LONGEST - lengths[order].astype(np.int64))
    # The next 15 bits -> symbol and length in one number.
    entries = np.repeat(order.astype(np.int64) << 4 | lengths[order], widths)
    lanes = -(-total // _LANE)
    sizes = reader.array(lanes, "u2").astype(np.int64)
    data = reader.take(int(sizes.sum()))
    found = np.empty(total, dtype=np.uint16)
    begin = 0
    for first in range(0, lanes, _LANES):
        part = sizes[first : first + _LANES]
        size = int(part.sum())
        symbols = _unpack(data[begin : begin + size], part, entries, min(_LANE, total), reader)
        last = found[first * _LANE : (first + len(part)) * _LANE]
        last[:] = symbols[: len(last)]
        _check_end(last, lengths, part, reader)
        begin += size
    return found


def _unpack(
    data: memoryview, sizes: NDArray[np.int64], entries: NDArray[np.int64], steps: int, reader: Reader
) -> NDArray[np.uint16]:
    """Return ``steps`` symbols of each lane, one lane after the other; beyond a lane's end they mean nothing."""
    raw = np.frombuffer(bytes(data) + b"\0\0\0\0", dtype=np.uint8).astype(np.int64)
    # The 24 bits that begin at each byte: room for 15 bits from any bit of it.
    windows = raw[:-2] << 16 | raw[1:-1] << 8 | raw[2:]
    end = 8 * len(data)
    at = 8 * (np.cumsum(sizes) - sizes)
    found = np.empty((steps, len(sizes)), dtype=np.uint16)
    for step in range(steps):
        entry = entries[windows[at >> 3] >> (9 - (at & 7)) & 0x7FFF]
        found[step] = entry >> 4
        at += entry & 15
        np.minimum(at, end, out=at)
    del reader
    return np.ascontiguousarray(found.T).reshape(-1)


def _check_end(
    symbols: NDArray[np.uint16], lengths: NDArray[np.uint8], sizes: NDArray[np.int64], reader: Reader
) -> None:
    """Refuse lanes whose symbols do not fill their bytes exactly."""
    bits = np.add.reduceat(lengths[symbols].astype(np.int64), np.arange(0, len(symbols), _LANE))
    if ((bits + 7) // 8 != sizes).any():
        raise reader.error("a stream of symbols does not end where its lane does")
