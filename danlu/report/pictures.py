"""Pictures of a run, embedded in the page as data URIs."""

from __future__ import annotations

import struct
from base64 import b64encode
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Picture", "embed"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_LARGEST = 8 * 2**20  # bytes of one picture; the page stays one that can be mailed
_WIDEST = 640


@dataclass(frozen=True)
class Picture:
    """A PNG as a data URI, with the size at which to show it and whether its pixels are to stay sharp squares."""

    uri: str
    width: int
    height: int
    pixelated: bool


def embed(folder: Path, relative: str | None, shown: int = _WIDEST) -> Picture | None:
    """Return the PNG at ``relative`` inside the run folder, enlarged by a whole factor to at most ``shown`` pixels.

    ``None`` where there is no such file, it is no PNG, is too large, or lies outside the folder.
    """
    if not relative:
        return None
    try:
        path = (folder / relative).resolve()
        if not path.is_relative_to(folder.resolve()) or not path.is_file() or path.stat().st_size > _LARGEST:
            return None
        data = path.read_bytes()
    except (OSError, ValueError):
        return None
    if data[:8] != _SIGNATURE or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    if not width or not height:
        return None
    factor = max(1, shown // max(width, height))
    uri = "data:image/png;base64," + b64encode(data).decode("ascii")
    return Picture(uri, width * factor, height * factor, factor > 1)
