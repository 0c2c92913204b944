"""What a data set is: samples with id, picture and targets, held in memory, read from files, or a part of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["ArrayDataset", "Dataset", "FileDataset", "Joined", "Sample", "Subset", "class_counts", "joined"]


@dataclass(frozen=True)
class Sample:
    """One sample: ``picture`` is uint8 [H, W, C], or the path of a file that is decoded late.

    ``targets["label"]`` is the index of the class; of several labels a picture, int64 [K] of 0 and 1.
    """

    id: str
    picture: NDArray[np.uint8] | Path
    targets: dict[str, Any]


@runtime_checkable
class Dataset(Protocol):
    """A lazy, indexable collection of samples; ``labels`` is int64 [N] or [N, K], ``ids`` names each once."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def ids(self) -> Sequence[str]: ...

    @property
    def labels(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


def _checked_labels(labels: Any, count: int, classes: tuple[str, ...]) -> NDArray[np.int64]:
    array = np.ascontiguousarray(labels, dtype=np.int64)
    if array.ndim == 2:
        if array.shape != (count, len(classes)) or ((array != 0) & (array != 1)).any():
            raise ValueError(f"{count} samples of several labels need 0 and 1 of shape ({count}, {len(classes)})")
        return array
    if array.shape != (count,):
        raise ValueError(f"{count} samples need labels of shape ({count},), got {array.shape}")
    if count and (array.min() < 0 or array.max() >= len(classes)):
        raise ValueError(f"labels lie in {array.min()}…{array.max()}, there are {len(classes)} classes")
    return array


def _target(label: Any) -> Any:
    """Return a number, or of several labels a picture the row [K]."""
    return int(label) if np.ndim(label) == 0 else label


class ArrayDataset:
    """Pictures of one size in memory.

    Args:
        pictures: uint8 [N, H, W, C].
        labels: integers [N], indices into ``classes``; of several labels a picture [N, K] of 0 and 1.
        ids: N names, each once.
        classes: the names of the classes.
    """

    def __init__(self, pictures: NDArray[np.uint8], labels: Any, ids: Sequence[str], classes: Sequence[str]) -> None:
        if pictures.dtype != np.uint8 or pictures.ndim != 4:
            raise ValueError(f"pictures are uint8 [N, H, W, C], got {pictures.dtype} {list(pictures.shape)}")
        if len(ids) != len(pictures):
            raise ValueError(f"{len(pictures)} pictures need as many ids, got {len(ids)}")
        self.pictures: NDArray[np.uint8] = np.ascontiguousarray(pictures)
        self.ids: Sequence[str] = ids
        self.classes: tuple[str, ...] = tuple(classes)
        self.labels: NDArray[np.int64] = _checked_labels(labels, len(pictures), self.classes)

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.ids[index], self.pictures[index], {"label": _target(self.labels[index])})

    def take(self, indices: NDArray[np.int64]) -> ArrayDataset:
        """Return the samples at ``indices`` as a data set of its own (pictures copied)."""
        ids = [self.ids[index] for index in indices.tolist()]
        return ArrayDataset(np.take(self.pictures, indices, axis=0), self.labels[indices], ids, self.classes)


class FileDataset:
    """Pictures in files below one folder, decoded when they are needed.

    Args:
        root: the folder.
        paths: the files, relative to ``root``; their POSIX form is the id unless ``ids`` is given.
        labels: integers [N], indices into ``classes``; of several labels a picture [N, K] of 0 and 1.
        classes: the names of the classes.
        ids: N names, where a path cannot be shown as text (see :mod:`danlu.data.names`).
    """

    def __init__(
        self,
        root: Path,
        paths: Sequence[Path],
        labels: Any,
        classes: Sequence[str],
        ids: Sequence[str] | None = None,
    ) -> None:
        self.root = root
        self.paths: tuple[Path, ...] = tuple(paths)
        self.ids: Sequence[str] = [path.as_posix() for path in self.paths] if ids is None else ids
        self.classes: tuple[str, ...] = tuple(classes)
        self.labels: NDArray[np.int64] = _checked_labels(labels, len(self.paths), self.classes)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        return Sample(self.ids[index], self.root / self.paths[index], {"label": _target(self.labels[index])})

    def take(self, indices: NDArray[np.int64]) -> FileDataset:
        """Return the samples at ``indices`` as a data set of its own."""
        chosen = indices.tolist()
        paths, ids = [self.paths[index] for index in chosen], [self.ids[index] for index in chosen]
        return FileDataset(self.root, paths, self.labels[indices], self.classes, ids)


class Subset:
    """The samples of ``dataset`` at ``indices``, in that order, without copying pictures."""

    def __init__(self, dataset: Dataset, indices: NDArray[np.int64]) -> None:
        chosen = np.asarray(indices, dtype=np.int64)
        inner = dataset if isinstance(dataset, Subset) else None
        self.dataset: Dataset = dataset if inner is None else inner.dataset
        self.indices: NDArray[np.int64] = chosen if inner is None else inner.indices[chosen]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, those of the whole data set."""
        return self.dataset.classes

    @cached_property
    def ids(self) -> Sequence[str]:
        """The ids of the chosen samples."""
        every = self.dataset.ids
        return [every[index] for index in self.indices.tolist()]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The labels of the chosen samples, int64 [N]."""
        return self.dataset.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[int(self.indices[index])]


class Joined:
    """The samples of one data set and then those of another of the same classes, without copying pictures."""

    def __init__(self, first: Dataset, second: Dataset) -> None:
        if first.classes != second.classes:
            raise ValueError(f"classes {first.classes} and {second.classes}: they must be the same")
        self.first, self.second = first, second

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of both."""
        return self.first.classes

    @cached_property
    def ids(self) -> Sequence[str]:
        """The ids of both."""
        return [*self.first.ids, *self.second.ids]

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The labels of both, int64 [N]."""
        return np.concatenate([self.first.labels, self.second.labels])

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, index: int) -> Sample:
        return self.first[index] if index < len(self.first) else self.second[index - len(self.first)]


def joined(first: Dataset, second: Dataset) -> Dataset:
    """Return the samples of ``first`` and then those of ``second``, both of the same classes.

    Pictures of one size that are in memory are copied into one array, which is read the fastest.
    """
    both = (first, second)
    if all(isinstance(one, ArrayDataset) for one in both):
        arrays = [one.pictures for one in both if isinstance(one, ArrayDataset)]
        if arrays[0].shape[1:] == arrays[1].shape[1:]:
            labels = np.concatenate([first.labels, second.labels])
            return ArrayDataset(np.concatenate(arrays), labels, [*first.ids, *second.ids], first.classes)
    return Joined(first, second)


def class_counts(dataset: Dataset) -> list[int]:
    """Return how many samples each class has; with several labels a picture one may count for several, or for none."""
    labels = dataset.labels
    found = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=len(dataset.classes))
    counts: list[int] = found.tolist()
    return counts
