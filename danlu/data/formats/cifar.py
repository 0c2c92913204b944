"""The binary version of CIFAR-10: records of 3073 bytes, one label and 32×32 pixels as three planes R, G, B.

A folder holds ``data_batch_1.bin`` and so on (train), ``test_batch.bin``, optionally ``validation_batch.bin``, or
``all_batch.bin``; ``batches.meta.txt`` names one class a line. The Python version of CIFAR-10 holds pickles, which can
run any program when they are read: it is recognised and refused.

Source of the layout: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.core.files import whole_folder
from danlu.data.arrays import array_names, to_array
from danlu.data.folders import check_new_folder
from danlu.data.formats import FORMATS
from danlu.data.names import check_class_names, read_class_names
from danlu.data.sample import ArrayDataset, Dataset
from danlu.data.splits import split_name

__all__ = ["RECORD", "Cifar", "read_batch"]

SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE
BATCH = 10_000
_TRAIN = re.compile(r"data_batch_([0-9]+)\.bin")
_OTHER = re.compile(r"(test|validation|all)_batch\.bin")
_PICKLE = re.compile(r"(data_batch_[0-9]+|test_batch|batches\.meta)")


def read_batch(path: Path, class_count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one file: pictures uint8 [N, 32, 32, 3] and labels uint8 [N].

    Raises:
        InputError: a length that is no multiple of 3073, or a label without a class.
    """
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=str(path)) from error
    rest = len(content) % RECORD
    if rest:
        what = f"has {len(content):,} bytes, no multiple of {RECORD}: byte {len(content) - rest:,} begins a cut record"
        raise InputError(what, where=str(path), mend="fetch the file again; only the binary version is read")
    records = content.reshape(-1, RECORD)
    labels = records[:, 0]
    if len(labels) and labels.max() >= class_count:
        index = int(np.argmax(labels >= class_count))
        what = f"byte {index * RECORD:,}: label {labels[index]}, but there are {class_count} classes"
        raise InputError(what, where=str(path), mend="name every class in batches.meta.txt, one a line")
    pictures = np.empty((len(records), SIDE * SIDE, 3), np.uint8)
    for channel, plane in enumerate(np.split(records[:, 1:], 3, axis=1)):  # faster than one transposition
        pictures[:, :, channel] = plane
    return pictures.reshape(-1, SIDE, SIDE, 3), np.ascontiguousarray(labels)


def _parts(path: Path) -> dict[str, list[Path]]:
    """Return split -> files, train batches in the order of their numbers."""
    numbered: list[tuple[int, Path]] = []
    parts: dict[str, list[Path]] = {}
    for file in sorted(path.iterdir()):
        if match := _TRAIN.fullmatch(file.name):
            numbered.append((int(match[1]), file))
        elif match := _OTHER.fullmatch(file.name):
            parts[split_name(match[1]) or "all"] = [file]
    if numbered:
        parts = {"train": [file for _, file in sorted(numbered)], **parts}
    return parts


class Cifar:
    """The binary CIFAR format; see the module."""

    def sniff(self, path: Path) -> bool:
        """Return whether the folder holds CIFAR batches (also the Python version, which :meth:`read` refuses)."""
        if not path.is_dir():
            return False
        patterns = (_TRAIN, _OTHER, _PICKLE)
        return any(pattern.fullmatch(file.name) for file in path.iterdir() for pattern in patterns)

    def read(self, path: Path) -> dict[str, Dataset]:
        """Read all batches of the folder into memory.

        Raises:
            InputError: see :func:`read_batch`; the Python (pickle) version; numbers of train batches with a gap.
        """
        parts = _parts(path)
        if not parts:
            raise InputError(
                "is the Python version of CIFAR-10; its files are pickles, which can run any program, and are not read",
                where=str(path),
                mend="get the binary version: danlu data get cifar10",
            )
        numbers = [int(match[1]) for file in parts.get("train", []) if (match := _TRAIN.fullmatch(file.name))]
        if numbers != list(range(1, len(numbers) + 1)):
            raise InputError(f"train batches {numbers} do not count up from 1", where=str(path), mend="add what misses")
        classes = _read_classes(path)
        splits: dict[str, Dataset] = {}
        read = {part: [read_batch(file, len(classes or range(256))) for file in files] for part, files in parts.items()}
        if classes is None:
            highest = max((int(labels.max(initial=0)) for batches in read.values() for _, labels in batches), default=0)
            classes = tuple(str(number) for number in range(highest + 1))
        for part, batches in read.items():
            pictures = np.concatenate([pictures for pictures, _ in batches])
            labels = np.concatenate([labels for _, labels in batches])
            splits[part] = ArrayDataset(pictures, labels, array_names(part, len(pictures)), classes)
        return splits

    def write(self, splits: Mapping[str, Dataset], path: Path) -> None:
        """Write binary batches (train in files of 10,000) and ``batches.meta.txt``.

        Raises:
            InputError: ``path`` is not empty, pictures are not 32×32 RGB, or a class name does not fit into a line.
        """
        check_new_folder(path)
        classes = next(iter(splits.values())).classes
        check_class_names(classes, str(path))
        if len(classes) > 256:
            raise InputError(f"{len(classes)} classes: CIFAR labels are one byte", where=str(path), allowed=["256"])
        with whole_folder(path) as folder:
            for part, dataset in splits.items():
                records = _records(dataset, path)
                if part != "train":
                    (folder / f"{part}_batch.bin").write_bytes(records.tobytes())
                    continue
                for number, begin in enumerate(range(0, max(len(records), 1), BATCH), start=1):
                    (folder / f"data_batch_{number}.bin").write_bytes(records[begin : begin + BATCH].tobytes())
            (folder / "batches.meta.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")


def _records(dataset: Dataset, path: Path) -> NDArray[np.uint8]:
    pictures = to_array(dataset, "cifar")
    if len(pictures) and pictures.shape[1:] != (SIDE, SIDE, 3):
        shape = "×".join(str(length) for length in pictures.shape[1:])
        raise InputError(f"pictures are {shape}: CIFAR holds 32×32×3", where=str(path), mend="write idx instead")
    planes = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)
    return np.concatenate([dataset.labels.astype(np.uint8)[:, None], planes], axis=1) if len(pictures) else planes


def _read_classes(path: Path) -> tuple[str, ...] | None:
    file = path / "batches.meta.txt"
    return read_class_names(file) if file.exists() else None


FORMATS.register("cifar", Cifar(), __name__, title="binary version of CIFAR-10 (never the pickled one)")
