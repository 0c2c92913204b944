"""The binary version of CIFAR-100: records of 3074 bytes, a coarse label, a fine label and three planes R, G, B.

A folder holds ``train.bin`` and ``test.bin`` (or ``all.bin``, ``validation.bin``); ``fine_label_names.txt`` names one
class a line. The fine label is the class; the coarse one is not kept and written as 0. The Python version holds
pickles, which can run any program when they are read: it is recognised and refused.

Source of the layout: https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky 2009).
"""

from __future__ import annotations

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

__all__ = ["RECORD", "Cifar100"]

SIDE = 32
RECORD = 2 + 3 * SIDE * SIDE
_NAMES = "fine_label_names.txt"
_PARTS = ("train", "validation", "test", "all")
_PICKLES = {"train", "test", "meta"}


def _read_records(path: Path, class_count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one file: pictures uint8 [N, 32, 32, 3] and fine labels uint8 [N]."""
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=str(path)) from error
    rest = len(content) % RECORD
    if rest:
        what = f"has {len(content):,} bytes, no multiple of {RECORD}: byte {len(content) - rest:,} begins a cut record"
        raise InputError(what, where=str(path), mend="fetch the file again; only the binary version is read")
    records = content.reshape(-1, RECORD)
    labels = np.ascontiguousarray(records[:, 1])
    if len(labels) and labels.max() >= class_count:
        index = int(np.argmax(labels >= class_count))
        what = f"byte {index * RECORD + 1:,}: label {labels[index]}, but there are {class_count} classes"
        raise InputError(what, where=str(path), mend=f"name every class in {_NAMES}, one a line")
    planes = records[:, 2:].reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


class Cifar100:
    """The binary CIFAR-100 format; see the module."""

    def sniff(self, path: Path) -> bool:
        """Return whether the folder holds CIFAR-100 (also the Python version, which :meth:`read` refuses)."""
        if not path.is_dir():
            return False
        names = {file.name for file in path.iterdir() if file.is_file()}
        return (_NAMES in names and any(f"{part}.bin" in names for part in _PARTS)) or names >= _PICKLES

    def read(self, path: Path) -> dict[str, Dataset]:
        """Read all parts of the folder into memory.

        Raises:
            InputError: a cut record, a label without a name, or the Python (pickle) version.
        """
        files = {part: path / f"{part}.bin" for part in _PARTS if (path / f"{part}.bin").is_file()}
        if not files:
            raise InputError(
                "is the Python version of CIFAR-100; its files are pickles, which can run any program: not read",
                where=str(path),
                mend="get the binary version: danlu data get cifar100",
            )
        classes = read_class_names(path / _NAMES)
        splits: dict[str, Dataset] = {}
        for part, file in files.items():
            pictures, labels = _read_records(file, len(classes))
            splits[part] = ArrayDataset(pictures, labels, array_names(part, len(pictures)), classes)
        return splits

    def write(self, splits: Mapping[str, Dataset], path: Path) -> None:
        """Write one file a split and ``fine_label_names.txt``; coarse labels are 0.

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
                pictures = to_array(dataset, "cifar100")
                if len(pictures) and pictures.shape[1:] != (SIDE, SIDE, 3):
                    shape = "×".join(str(length) for length in pictures.shape[1:])
                    raise InputError(f"pictures are {shape}: CIFAR holds 32×32×3", where=str(path), mend="write idx")
                records = np.zeros((len(pictures), RECORD), np.uint8)
                if len(pictures):
                    records[:, 1] = dataset.labels
                    records[:, 2:] = pictures.transpose(0, 3, 1, 2).reshape(len(pictures), -1)
                (folder / f"{part}.bin").write_bytes(records.tobytes())
            (folder / _NAMES).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")


FORMATS.register("cifar100", Cifar100(), __name__, title="binary version of CIFAR-100 (never the pickled one)")
