"""Pictures by index: gathered from one array where they are in memory, decoded ahead in threads where they are not."""

from __future__ import annotations

import collections
import itertools
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.data.decode import change_channels, fit, prepare
from danlu.data.sample import ArrayDataset, Dataset, Subset

__all__ = ["Loader"]

Indices = NDArray[np.int64]
Pictures = NDArray[np.uint8]


class Loader:
    """Gives the pictures of a data set as uint8 [B, h, w, C] arrays.

    Pictures are decoded at most once while all of them fit into ``cache_bytes``; otherwise the first ones that fit are
    kept and the rest is decoded each time.

    Args:
        dataset: the samples.
        size: (h, w) every picture is fitted to.
        channels: 1 or 3.
        threads: how many threads decode; decoding releases the interpreter's lock.
        cache_bytes: the most memory the decoded pictures may take; 0 keeps none.
    """

    def __init__(
        self, dataset: Dataset, size: tuple[int, int], channels: int, *, threads: int = 2, cache_bytes: int = 2**30
    ) -> None:
        if min(size) < 1 or channels not in (1, 3) or threads < 1:
            raise ValueError(
                f"size {size}, channels {channels}, threads {threads}: sizes and threads ≥ 1, 1 or 3 channels"
            )
        self.dataset, self.size, self.channels, self.threads = dataset, size, channels, threads
        self.picture_shape = (*size, channels)
        self._labels = dataset.labels
        self._whole = _resident(dataset, size, channels, cache_bytes)
        room = 0 if self._whole is not None else min(len(dataset), cache_bytes // math.prod(self.picture_shape))
        self._kept = np.empty((room, *self.picture_shape), np.uint8)
        self._filled = np.zeros(room, dtype=bool)
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix="danlu-decode"
        )  # no thread starts before it is used

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def array(self) -> Pictures | None:
        """All pictures, uint8 [N, h, w, C], when they are in memory; else None."""
        if self._whole is None and len(self._kept) == len(self.dataset) and self._filled.all():
            self._whole = self._kept
        return self._whole

    def labels(self, indices: Indices) -> NDArray[np.int64]:
        """Return the labels at ``indices``, int64 [B]."""
        return self._labels[indices]

    def pictures(self, indices: Indices) -> Pictures:
        """Return the pictures at ``indices``, uint8 [B, h, w, C], C-contiguous.

        Raises:
            InputError: a file that cannot be decoded; it is named.
        """
        if self.array is not None:
            return np.take(self.array, indices, axis=0)
        batch = np.empty((len(indices), *self.picture_shape), np.uint8)
        self._fill(np.asarray(indices, dtype=np.int64), batch)
        return batch

    def _fill(self, indices: Indices, batch: Pictures) -> None:
        """Copy what is kept into ``batch`` and decode the rest, in threads where that pays."""
        room = indices < len(self._kept)
        known = np.zeros(len(indices), dtype=bool)
        known[room] = self._filled[indices[room]]
        batch[known] = self._kept[indices[known]]

        def one(place: int) -> None:
            batch[place] = self._decode(int(indices[place]))
            if room[place]:
                self._kept[indices[place]] = batch[place]
                self._filled[indices[place]] = True

        missing = np.flatnonzero(~known).tolist()
        if self.threads == 1 or len(missing) < 2:
            for place in missing:
                one(place)
        else:
            collections.deque(self._pool.map(one, missing), maxlen=0)  # raises what a thread raised

    def _decode(self, index: int) -> Pictures:
        sample = self.dataset[index]
        if isinstance(sample.picture, Path):
            return prepare(sample.picture, self.channels, self.size)
        return fit(change_channels(sample.picture, self.channels), self.size)

    def prefetch(self, batches: Iterable[Indices], ahead: int = 2) -> Iterator[tuple[Indices, Pictures]]:
        """Yield (indices, pictures) of each batch in order, while the next ``ahead`` batches are being made.

        Pictures in memory are gathered on the spot, which is faster than handing them over.
        """
        if self.array is not None:
            for indices in batches:
                yield indices, self.pictures(indices)
            return
        queue: collections.deque[tuple[Indices, Future[Pictures]]] = collections.deque()
        with ThreadPoolExecutor(1, thread_name_prefix="danlu-prefetch") as pool:
            source = iter(batches)
            try:
                for indices in itertools.islice(source, ahead):
                    queue.append((indices, pool.submit(self.pictures, indices)))
                while queue:
                    done, future = queue.popleft()
                    pictures = future.result()
                    for indices in itertools.islice(source, 1):
                        queue.append((indices, pool.submit(self.pictures, indices)))
                    yield done, pictures
            finally:
                for _, future in queue:
                    future.cancel()

    def close(self) -> None:
        """End the decoding threads; the loader cannot decode after that."""
        self._pool.shutdown()


def _resident(dataset: Dataset, size: tuple[int, int], channels: int, cache_bytes: int) -> Pictures | None:
    """Return the array of all pictures if they are in memory in the right size, or None."""
    part = dataset.dataset if isinstance(dataset, Subset) else dataset
    if not isinstance(part, ArrayDataset) or part.pictures.shape[1:3] != size:
        return None
    pictures = part.pictures
    if isinstance(dataset, Subset):
        pictures = np.take(pictures, dataset.indices, axis=0)
    if pictures.shape[3] == channels:
        return pictures
    if pictures.nbytes // pictures.shape[3] * channels > cache_bytes:
        return None
    return change_channels(pictures, channels)
