"""Mean and standard deviation of pictures, per channel, as fractions of 255."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danlu.core import seeds
from danlu.core.environment import usable_cores
from danlu.core.errors import InputError
from danlu.core.files import cache_home, read_json, write_json
from danlu.core.log import logger, progress
from danlu.data import decode
from danlu.data.sample import ArrayDataset, Dataset

__all__ = ["SAMPLED", "SIDE", "array_stats", "file_stats"]

SAMPLED = 2000
SIDE = 64
_SLICE = 1 << 20

Stats = tuple[tuple[float, ...], tuple[float, ...]]


class _Histogram:
    """How often each level 0…255 occurs in each channel: whole numbers, so that the order of adding does not matter."""

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((channels, 256), np.int64)

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Add uint8 pixels [N, C], counted by Pillow, which is several times faster than bincount."""
        for begin in range(0, len(pixels), _SLICE):
            row = pixels[None, begin : begin + _SLICE]
            image = Image.fromarray(row[..., 0] if row.shape[2] == 1 else row)
            self.counts += np.array(image.histogram(), np.int64).reshape(self.counts.shape)

    def stats(self) -> Stats:
        levels = np.arange(256, dtype=np.float64)
        total = self.counts.sum(axis=1)
        mean = self.counts @ levels / total
        variance = np.maximum(self.counts @ levels**2 / total - mean**2, 0.0)
        return tuple((mean / 255.0).tolist()), tuple((np.sqrt(variance) / 255.0).tolist())


def array_stats(dataset: ArrayDataset) -> Stats:
    """Return (mean, standard deviation) of all pixels of pictures in memory."""
    levels = _Histogram(dataset.pictures.shape[3])
    levels.add(dataset.pictures.reshape(-1, dataset.pictures.shape[3]))
    return levels.stats()


def file_stats(dataset: Dataset, digests: Sequence[str], channels: int, seed: int) -> Stats:
    """Return (mean, standard deviation) over at most 2,000 seeded-chosen pictures, each fitted to 64 × 64 pixels.

    The result is remembered outside the data set, by the content of the chosen pictures.

    Args:
        dataset: the training pictures.
        digests: the SHA-256 of each file.
        channels: 1 or 3.
        seed: of the choice.
    """
    chosen = np.sort(seeds.permutation(len(dataset), "data/stats", seed)[:SAMPLED]).tolist()
    text = "\n".join([f"{channels}/{SIDE}/{decode.MAX_PIXELS}", *(digests[index] for index in chosen)])
    path = cache_home() / "checks" / f"stats-{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    try:
        remembered = read_json(path)
        if len(remembered["mean"]) == len(remembered["std"]) == channels:
            return tuple(map(float, remembered["mean"])), tuple(map(float, remembered["std"]))
    except (InputError, TypeError, KeyError, ValueError):
        logger.debug("no remembered statistics in %s", path)
    levels = _Histogram(channels)
    for picture in _fitted(dataset, chosen, channels):
        levels.add(picture.reshape(-1, channels))
    mean, std = levels.stats()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"schema": 1, "mean": list(mean), "std": list(std)})
    except (InputError, OSError) as error:
        logger.warning("statistics cannot be remembered, they will be measured again: %s", error)
    return mean, std


def _fitted(dataset: Dataset, chosen: list[int], channels: int) -> Iterator[NDArray[np.uint8]]:
    def one(index: int) -> NDArray[np.uint8]:
        picture = dataset[index].picture
        if isinstance(picture, Path):
            return decode.prepare(picture, channels, (SIDE, SIDE), name=dataset.ids[index])
        return decode.fit(decode.change_channels(picture, channels), (SIDE, SIDE))

    with progress("measure colours", len(chosen), "pictures") as advance, ThreadPoolExecutor(usable_cores()) as pool:
        for done, picture in enumerate(pool.map(one, chosen), start=1):
            advance(done, "")
            yield picture
