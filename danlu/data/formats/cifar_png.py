"""CIFAR as strips: PNG files of 1024 pixels a row, each row one 32×32 RGB picture, and labels as JSON lists.

A folder holds ``data_batch_1.png`` and so on with ``train_lables.json`` (spelt so by the package that uses this
layout; ``train_labels.json`` is read too), ``test_batch.png`` with ``test_lables.json``, likewise ``validation`` and
``all``. An optional ``classes.json`` names the classes; without it they are called by their number.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danlu.core.errors import InputError
from danlu.core.files import read_json, whole_folder
from danlu.data.arrays import array_names, to_array
from danlu.data.decode import decode
from danlu.data.folders import check_new_folder
from danlu.data.formats import FORMATS
from danlu.data.names import check_class_names
from danlu.data.sample import ArrayDataset, Dataset
from danlu.data.splits import ORDER

__all__ = ["CifarPng"]

SIDE = 32
BATCH = 10_000
_STRIP = re.compile(r"(?:data_batch_(?P<number>[0-9]+)|(?P<part>test|validation|all)_batch)\.png")


def _read_strip(path: Path) -> NDArray[np.uint8]:
    """Read one strip as uint8 [N, 32, 32, 3]."""
    strip = decode(path, 3)
    if strip.shape[1] != SIDE * SIDE:
        what = f"is {strip.shape[1]} pixels wide, a row holds one picture of {SIDE * SIDE}"
        raise InputError(what, where=str(path), mend="fetch the file again")
    return strip.reshape(-1, SIDE, SIDE, 3)


def _labels_file(path: Path, part: str) -> Path:
    for spelling in ("lables", "labels"):
        if (file := path / f"{part}_{spelling}.json").exists():
            return file
    raise InputError(f"has no {part}_lables.json for its {part} pictures", where=str(path), mend="fetch it again")


def _read_labels(file: Path, count: int) -> NDArray[np.int64]:
    document = read_json(file)
    if not isinstance(document, list):
        raise InputError("is no list of labels", where=str(file))
    for index, label in enumerate(document):
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < 65536:
            raise InputError(f"entry {index} is {label!r}, no class number", where=str(file))
    if len(document) != count:
        raise InputError(f"{len(document)} labels for {count} pictures", where=str(file), mend="fetch it again")
    return np.array(document, dtype=np.int64)


def _strips(path: Path) -> dict[str, list[Path]]:
    found: list[tuple[str, int, Path]] = []
    for file in sorted(path.iterdir()):
        if match := _STRIP.fullmatch(file.name):
            found.append((match["part"] or "train", int(match["number"] or 0), file))
    parts: dict[str, list[Path]] = {}
    for part, _, file in sorted(found, key=lambda entry: (ORDER.index(entry[0]), entry[1])):
        parts.setdefault(part, []).append(file)
    return parts


class CifarPng:
    """CIFAR as PNG strips; see the module."""

    def sniff(self, path: Path) -> bool:
        """Return whether the folder holds strips named like this format's."""
        return path.is_dir() and any(_STRIP.fullmatch(file.name) for file in path.iterdir())

    def read(self, path: Path) -> dict[str, Dataset]:
        """Decode all strips of the folder into memory.

        Raises:
            InputError: a strip of another width, missing or malformed labels, or a label without a class.
        """
        names = path / "classes.json"
        classes: tuple[str, ...] | None = None
        if names.exists():
            document = read_json(names)
            if not isinstance(document, list):
                raise InputError("is no list of class names", where=str(names), mend='write ["cat", "dog"]')
            classes = check_class_names(document, str(names))
        read: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]] = {}
        for part, strips in _strips(path).items():
            pictures = np.concatenate([_read_strip(strip) for strip in strips])
            read[part] = pictures, _read_labels(_labels_file(path, part), len(pictures))
        highest = max((int(labels.max(initial=0)) for _, labels in read.values()), default=0)
        if classes is None:
            classes = tuple(str(number) for number in range(highest + 1))
        if highest >= len(classes):
            raise InputError(f"label {highest}, but classes.json names {len(classes)} classes", where=str(path))
        return {
            part: ArrayDataset(pictures, labels, array_names(part, len(pictures)), classes)
            for part, (pictures, labels) in read.items()
        }

    def write(self, splits: Mapping[str, Dataset], path: Path) -> None:
        """Write strips (train in files of 10,000 pictures), labels and ``classes.json``.

        Raises:
            InputError: ``path`` is not empty, a split is empty, pictures are not 32×32 RGB, or a class name that could
                not be read again.
        """
        check_new_folder(path)
        classes = check_class_names(next(iter(splits.values())).classes, str(path))
        with whole_folder(path) as folder:
            for part, dataset in splits.items():
                pictures = to_array(dataset, "cifar_png")
                if not len(pictures) or pictures.shape[1:] != (SIDE, SIDE, 3):
                    shape = "×".join(str(length) for length in pictures.shape)
                    raise InputError(f"{part} is {shape}: strips hold N×32×32×3, N > 0", where=str(path))
                stems = [f"{part}_batch"]
                if part == "train":
                    stems = [f"data_batch_{number}" for number in range(1, -(-len(pictures) // BATCH) + 1)]
                for number, stem in enumerate(stems):
                    chosen = pictures if part != "train" else pictures[number * BATCH : (number + 1) * BATCH]
                    (folder / f"{stem}.png").write_bytes(_png(chosen.reshape(len(chosen), SIDE * SIDE, 3)))
                labels = json.dumps(dataset.labels.tolist(), separators=(",", ":"))
                (folder / f"{part}_lables.json").write_text(labels, encoding="utf-8")
            text = json.dumps(classes, ensure_ascii=False)
            (folder / "classes.json").write_text(text + "\n", encoding="utf-8")


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


FORMATS.register("cifar_png", CifarPng(), __name__, title="CIFAR as PNG strips, one 32×32 picture a row")
