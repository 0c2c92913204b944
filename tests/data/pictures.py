"""Small pictures and folders for the tests of data."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Return random pixels uint8 [height, width, channels]."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(pixels: NDArray[np.uint8], form: str = "PNG", **options: object) -> bytes:
    """Return pixels as the bytes of a picture file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0, side: int = 24) -> bytes:
    """Return a small colour JPEG; each seed another one."""
    return encoded(noise(side, side, 3, seed), "JPEG", quality=90)


def make_folder(root: Path, counts: dict[str, int], *, seed: int = 0) -> Path:
    """Write ``counts[folder]`` different JPEG files into each folder below ``root`` (``train/cat`` works too)."""
    number = seed * 100_000
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            (root / folder / f"{index:03d}.jpg").write_bytes(jpeg(number))
            number += 1
    return root


def snapshot(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return everything below ``root``: mode, modification time, content."""
    return {
        str(path.relative_to(root)): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(root.rglob("*"))
    }
