"""The confusion matrix: a heat map while its cells can be read, the most confused pairs and a thumbnail beyond."""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from danlu.report.figures import count, percent, shorten, svg_name, width

__all__ = ["LARGEST_MAP", "Pair", "confused_pairs", "heat_map", "read_matrix", "thumbnail"]

LARGEST_MAP = 30  # classes; more cells than that squared are no longer read, only looked at
_THUMBNAIL = 240  # pixels
_CORRECT, _CONFUSED = (46, 112, 168), (196, 68, 40)  # legible on white and on near-black


@dataclass(frozen=True)
class Pair:
    """``count`` pictures of class ``true`` were taken for class ``predicted``: ``share`` of that class."""

    true: str
    predicted: str
    count: int
    share: float


def read_matrix(value: Any, names: Sequence[str]) -> NDArray[np.int64] | None:
    """Return a record's confusion matrix [K, K], rows the true classes; ``None`` where it is no such matrix."""
    size = len(names)
    if not size or not isinstance(value, list) or len(value) != size:
        return None
    if not all(isinstance(row, list) and len(row) == size for row in value):
        return None
    try:
        matrix = np.asarray(value, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        return None
    return matrix if matrix.shape == (size, size) and int(matrix.min()) >= 0 else None


def _shares(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    totals = matrix.sum(axis=1, keepdims=True)
    return np.asarray(matrix / np.maximum(totals, 1), dtype=np.float64)


def confused_pairs(matrix: NDArray[np.int64], names: Sequence[str], most: int) -> list[Pair]:
    """Return the pairs off the diagonal with the largest counts, largest first; equal counts by share, then order."""
    off = matrix * (1 - np.eye(len(matrix), dtype=np.int64))
    shares = _shares(matrix)
    rows, columns = np.nonzero(off)
    order = np.lexsort((columns, rows, -shares[rows, columns], -off[rows, columns]))[:most]
    return [
        Pair(names[r], names[c], int(matrix[r, c]), float(shares[r, c]))
        for r, c in ((int(rows[i]), int(columns[i])) for i in order)
    ]


def heat_map(matrix: NDArray[np.int64], names: Sequence[str], *, ident: str) -> Markup:
    """Return the matrix as SVG: blue for the diagonal, red off it, as strong as the cell's share of its row."""
    size = len(names)
    cell = 38 if size <= 12 else 28 if size <= 20 else 24
    limit = 18
    left = 14 + round(6.6 * max(width(shorten(name, limit)) for name in names))
    slanted = max(width(shorten(name, limit)) for name in names) > (4 if cell > 30 else 2)
    reach = [round(4.9 * width(shorten(name, limit))) for name in names] if slanted else [0]
    top = 12 + max(reach) if slanted else 26
    # What a name needs beyond the last column; the first names have all columns after theirs.
    over = max(0, *(needed - cell * (len(reach) - 1 - i) for i, needed in enumerate(reach)))
    shares = _shares(matrix)
    pieces = [_column_name(left + cell * (i + 0.5), top - 8, name, limit, slanted) for i, name in enumerate(names)]
    for r, name in enumerate(names):
        text = Markup('<text class="tick" x="{}" y="{}">{}</text>')
        pieces.append(text.format(left - 8, top + cell * (r + 0.5) + 4, svg_name(name, limit)))
        for c, predicted in enumerate(names):
            pieces.append(
                _cell(
                    left + cell * c,
                    top + cell * r,
                    cell,
                    int(matrix[r, c]),
                    float(shares[r, c]),
                    f"{shorten(name, 60)} → {shorten(predicted, 60)}",
                    r == c,
                )
            )
    wide, high = left + cell * size + max(over, 2), top + cell * size + 2
    frame = Markup(
        '<svg class="matrix{4}" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
        'aria-labelledby="{2}">{3}</svg>'
    )
    return frame.format(wide, high, ident, Markup("").join(pieces), " fits" if wide <= 480 else "")


def _column_name(x: float, y: float, name: str, limit: int, slanted: bool) -> Markup:
    if not slanted:
        return Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(x, y, svg_name(name, limit))
    return Markup('<text class="tick start" transform="translate({} {}) rotate(-45)">{}</text>').format(
        x + 3, y, svg_name(name, limit)
    )


def _cell(x: float, y: float, cell: int, value: int, share: float, title: str, diagonal: bool) -> Markup:
    # The square root lifts one confusion in a hundred out of the paper's colour; a diagonal of ones stays full.
    strength = 0.0 if value == 0 else round(share if diagonal else min(1.0, 0.08 + share**0.5), 3)
    kind = "correct" if diagonal else "confused"
    rect = '<rect class="cell {0}" x="{1}" y="{2}" width="{3}" height="{3}" fill-opacity="{4}" data-tip="{5}"/>'
    tip = f"{title}: {count(value)} ({percent(share)})"
    drawn = Markup(rect).format(kind, x + 0.5, y + 0.5, cell - 1, max(strength, 0.0), tip)
    if value == 0:
        return drawn
    tone = "on" if strength > 0.55 else "off"
    size = "" if len(str(value)) <= (4 if cell > 30 else 3) else " small"
    text = '<text class="count {}{}" x="{}" y="{}">{}</text>'
    return drawn + Markup(text).format(tone, size, x + cell / 2, y + cell / 2 + 4, value)


def thumbnail(matrix: NDArray[np.int64]) -> tuple[str, int]:
    """Return a small PNG of the whole matrix as a data URI, and its side in pixels.

    Transparent where nothing is, so that it lies on the light and on the dark page alike.
    """
    shares = _shares(matrix)
    diagonal = np.eye(len(matrix), dtype=bool)
    right = _pooled(np.where(diagonal, shares, 0.0))
    wrong = _pooled(np.where(diagonal, 0.0, shares))
    strength = np.where(right > 0, right, np.where(wrong > 0, np.minimum(1.0, 0.35 + np.sqrt(wrong)), 0.0))
    pixels = np.zeros((*strength.shape, 4), dtype=np.uint8)
    pixels[..., :3] = np.where((right > 0)[..., None], _CORRECT, _CONFUSED)
    pixels[..., 3] = np.round(255 * strength)
    return "data:image/png;base64," + b64encode(_png(pixels)).decode("ascii"), len(pixels)


def _pooled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``values`` at most 240 cells wide; a pixel holds the largest of the cells it stands for."""
    if len(values) <= _THUMBNAIL:
        return values
    edges = (np.arange(_THUMBNAIL) * len(values)) // _THUMBNAIL
    rows = np.maximum.reduceat(values, edges, axis=0)
    return np.asarray(np.maximum.reduceat(rows, edges, axis=1), dtype=np.float64)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    """Return RGBA pixels [H, W, 4] as a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    high, wide = pixels.shape[:2]
    rows = np.concatenate([np.zeros((high, 1), dtype=np.uint8), pixels.reshape(high, wide * 4)], axis=1)
    header = struct.pack(">IIBBBBB", wide, high, 8, 6, 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
