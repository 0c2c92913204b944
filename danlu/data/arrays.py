"""Data sets as plain arrays, and the hash that names their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.data.decode import decode
from danlu.data.sample import ArrayDataset, Dataset

__all__ = ["array_names", "content_hash", "data_hash", "picture_digests", "to_array"]


def array_names(split: str, count: int) -> list[str]:
    """Return the ids of an array data set: ``train/00000`` and so on."""
    return [f"{split}/{number:05d}" for number in range(count)]


def picture_digests(pictures: NDArray[np.uint8]) -> list[str]:
    """Return the SHA-256 of each picture's pixel bytes in hexadecimal; pictures are uint8 [N, H, W, C]."""
    rows = np.ascontiguousarray(pictures).reshape(len(pictures), -1)
    sha256 = hashlib.sha256
    return [sha256(row.data).hexdigest() for row in rows]


def data_hash(rows: Iterable[tuple[str, str, int | list[int]]]) -> str:
    """Return the data hash: SHA-256 over the sorted (name, SHA-256 of the bytes, label)."""
    lines = [f"{name}\0{digest}\0{_words(label)}\n" for name, digest, label in sorted(rows)]
    return hashlib.sha256("".join(lines).encode("utf-8", "backslashreplace")).hexdigest()


def _words(label: int | list[int]) -> str:
    """Return a label as text; of several labels a picture the places of those it has."""
    return str(label) if isinstance(label, int) else "+".join(str(place) for place, has in enumerate(label) if has)


def content_hash(splits: Mapping[str, ArrayDataset]) -> str:
    """Return the data hash of array data sets: pixels, labels and ids of all splits."""
    rows: list[tuple[str, str, int]] = []
    for dataset in splits.values():
        rows.extend(zip(dataset.ids, picture_digests(dataset.pictures), dataset.labels.tolist(), strict=True))
    return data_hash(rows)


def to_array(dataset: Dataset, what: str) -> NDArray[np.uint8]:
    """Return all pictures as uint8 [N, H, W, C].

    Args:
        dataset: the samples, decoded where they are files.
        what: what needs them to be of one size, for the error.

    Raises:
        InputError: the pictures differ in size or channels; the first one that does is named.
    """
    if isinstance(dataset, ArrayDataset):
        return dataset.pictures
    pictures: list[NDArray[np.uint8]] = []
    for index in range(len(dataset)):
        sample = dataset[index]
        picture = decode(sample.picture, None) if isinstance(sample.picture, Path) else sample.picture
        if pictures and picture.shape != pictures[0].shape:
            sizes = f"{_shape(picture.shape)}, the first one {_shape(pictures[0].shape)}"
            mend = "write image_folder, which holds pictures of any size"
            raise InputError(f"is {sizes}: {what} holds pictures of one size", where=sample.id, mend=mend)
        pictures.append(picture)
    return np.stack(pictures) if pictures else np.zeros((0, 1, 1, 1), np.uint8)


def _shape(shape: Sequence[int]) -> str:
    return "×".join(str(length) for length in shape)
