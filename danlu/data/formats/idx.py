"""IDX: the format of MNIST. Big-endian header (0, 0, type, dimensions, lengths), then the values; plain or gzipped.

A folder holds pairs ``<part>-images-idx3-ubyte`` and ``<part>-labels-idx1-ubyte`` (``.gz`` allowed; a dot may stand
for the second dash), where the part is ``train``, ``validation``, ``t10k`` or ``test``, or ``all``. Colour pictures are
``idx4`` [N, H, W, 3]. An optional ``classes.json`` names the classes; without it they are called by their number.

Source of the layout: http://yann.lecun.com/exdb/mnist/ (LeCun, Cortes, Burges).
"""

from __future__ import annotations

import gzip
import json
import math
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.core.files import read_json, whole_folder
from danlu.data.arrays import array_names, to_array
from danlu.data.folders import check_new_folder
from danlu.data.formats import FORMATS
from danlu.data.names import check_class_names
from danlu.data.sample import ArrayDataset, Dataset
from danlu.data.splits import split_name

__all__ = ["MAX_ARRAY_BYTES", "Idx", "encode_idx", "read_idx", "read_pair"]

MAX_ARRAY_BYTES = 8 * 2**30
_UBYTE = 0x08
_DEFLATE_RATIO = 1032  # the most a deflate stream can expand
_FILE = re.compile(r"(?P<part>[a-z0-9]+)-(?P<kind>images|labels)[-.]idx[0-9]-ubyte(\.gz)?", re.IGNORECASE)
_WRITTEN = {"train": "train", "validation": "validation", "test": "t10k", "all": "all"}


def read_idx(path: Path, dimensions: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes; whether it is gzipped is seen from its first bytes.

    Args:
        path: the file.
        dimensions: the allowed numbers of dimensions, e.g. ``(3, 4)``.

    Raises:
        InputError: another magic number, lengths that do not fit the file's size, or broken compression.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if not zipped:
                return _read_values(file, path, dimensions, size, exact=True)
            with gzip.open(file, "rb") as unzipped:
                return _read_values(unzipped, path, dimensions, size * _DEFLATE_RATIO, exact=False)  # type: ignore[arg-type]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"broken gzip data ({error})", where=str(path), mend="fetch the file again") from error
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=str(path)) from error


def _read_values(
    file: BinaryIO, path: Path, dimensions: tuple[int, ...], limit: int, *, exact: bool
) -> NDArray[np.uint8]:
    """Read header and values; ``limit`` bounds what the header may promise (``exact``: it is the file's size)."""
    mend = "fetch the file again, or write it again"
    header = file.read(4)
    allowed = [f"0x0000{_UBYTE:02x}{number:02x}" for number in dimensions]
    if len(header) < 4 or header[:3] != bytes((0, 0, _UBYTE)) or header[3] not in dimensions:
        what = f"is no IDX file of these: bytes 0–3 are 0x{header.hex()}"
        raise InputError(what, where=str(path), allowed=allowed, mend=mend)
    lengths_bytes = file.read(4 * header[3])
    if len(lengths_bytes) < 4 * header[3]:
        raise InputError(f"the header ends at byte {4 + len(lengths_bytes)}", where=str(path), mend=mend)
    lengths = struct.unpack(f">{header[3]}I", lengths_bytes)
    begin, count = 4 + len(lengths_bytes), math.prod(lengths)
    promised = "×".join(str(length) for length in lengths)
    if any(length == 0 for length in lengths[1:]):
        raise InputError(f"byte 4: the lengths {promised} leave no pixels", where=str(path), mend=mend)
    if (exact and begin + count != limit) or begin + count > min(limit + begin, MAX_ARRAY_BYTES):
        held = f"{limit:,} bytes" if exact else f"at most {min(limit, MAX_ARRAY_BYTES):,} unzipped"
        what = f"byte 4: the lengths {promised} need {begin + count:,} bytes, the file has {held}"
        raise InputError(what, where=str(path), mend=mend)
    values = np.empty(count, np.uint8)
    view, done = values.data, 0
    while done < count and (got := file.readinto(view[done : done + (1 << 24)])):  # type: ignore[attr-defined]
        done += got
    if done < count:
        raise InputError(f"ends at byte {begin + done:,} of {begin + count:,}", where=str(path), mend=mend)
    if file.read(1):
        raise InputError(f"goes on after byte {begin + count:,}, its promised end", where=str(path), mend=mend)
    return values.reshape(lengths)


def read_pair(images: Path, labels: Path, part: str, classes: tuple[str, ...] | None) -> ArrayDataset:
    """Read the pictures and labels of one split; ``classes`` None calls them by their number.

    Raises:
        InputError: a damaged file, different lengths, or a label with no class.
    """
    pictures, numbers = read_idx(images, (3, 4)), read_idx(labels, (1,))
    if pictures.ndim == 3:
        pictures = pictures[..., None]
    if pictures.shape[3] not in (1, 3):
        raise InputError(f"pictures have {pictures.shape[3]} channels", where=str(images), allowed=[1, 3])
    if len(pictures) != len(numbers):
        raise InputError(f"{len(numbers)} labels for {len(pictures)} pictures of {images.name}", where=str(labels))
    if classes is None:
        classes = tuple(str(number) for number in range(int(numbers.max(initial=0)) + 1))
    if len(numbers) and numbers.max() >= len(classes):
        index = int(np.argmax(numbers >= len(classes)))
        what = f"byte {8 + index}: label {numbers[index]}, but there are {len(classes)} classes"
        raise InputError(what, where=str(labels), mend="name every class in classes.json")
    return ArrayDataset(pictures, numbers, array_names(part, len(pictures)), classes)


def encode_idx(array: NDArray[np.uint8]) -> bytes:
    """Return an array of unsigned bytes as the content of an IDX file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, _UBYTE, array.ndim, *array.shape) + array.tobytes()


def _files(path: Path) -> dict[tuple[str, str], Path]:
    """Return (part, kind) -> file of a folder's IDX files.

    Raises:
        InputError: two files stand for one part.
    """
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(path.iterdir()):
        match = _FILE.fullmatch(file.name)
        part = split_name(match["part"]) if match else None
        if match is None or part is None:
            continue
        key = (part, match["kind"].lower())
        if key in found:
            raise InputError(f"{found[key].name} and {file.name} are the same part", where=str(path), mend="keep one")
        found[key] = file
    return found


class Idx:
    """The IDX format; see the module."""

    def sniff(self, path: Path) -> bool:
        """Return whether the folder holds a file named like IDX pictures or labels."""
        if not path.is_dir():
            return False
        return any((m := _FILE.fullmatch(file.name)) and split_name(m["part"]) for file in path.iterdir())

    def read(self, path: Path) -> dict[str, Dataset]:
        """Read all pairs of the folder into memory.

        Raises:
            InputError: see :func:`read_idx` and :func:`read_pair`; pictures without labels or the reverse; no files.
        """
        files = _files(path)
        if not files:
            raise InputError("holds no IDX files", where=str(path), mend="name them as train-images-idx3-ubyte")
        names = path / "classes.json"
        classes = check_class_names(_list(read_json(names), names), str(names)) if names.exists() else None
        splits: dict[str, ArrayDataset] = {}
        for part in dict.fromkeys(part for part, _ in files):
            images, labels = files.get((part, "images")), files.get((part, "labels"))
            if images is None or labels is None:
                lone = images or labels
                missing = "labels" if labels is None else "images"
                raise InputError(f"{lone.name if lone else part} has no {missing} file beside it", where=str(path))
            splits[part] = read_pair(images, labels, part, classes)
        longest = max((split.classes for split in splits.values()), key=len)
        for split in splits.values():
            split.classes = longest
        return dict(splits)

    def write(self, splits: Mapping[str, Dataset], path: Path) -> None:
        """Write plain IDX pairs and ``classes.json``.

        Raises:
            InputError: ``path`` is not empty, pictures differ in size, there are more than 256 classes, or a class
                name that could not be read again.
        """
        check_new_folder(path)
        classes = next(iter(splits.values())).classes
        if len(classes) > 256:
            raise InputError(f"{len(classes)} classes: IDX labels are one byte", where=str(path), allowed=["256"])
        check_class_names(classes, str(path))
        with whole_folder(path) as folder:
            for part, dataset in splits.items():
                pictures = to_array(dataset, "idx")
                values = pictures[..., 0] if pictures.shape[3] == 1 else pictures
                stem = _WRITTEN[part]
                (folder / f"{stem}-images-idx{values.ndim}-ubyte").write_bytes(encode_idx(values))
                labels = encode_idx(dataset.labels.astype(np.uint8))
                (folder / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
            text = json.dumps(list(classes), ensure_ascii=False)
            (folder / "classes.json").write_text(text + "\n", encoding="utf-8")


def _list(document: object, path: Path) -> list[str]:
    if not isinstance(document, list):
        raise InputError("is no list of class names", where=str(path), mend='write ["cat", "dog"]')
    return document


FORMATS.register("idx", Idx(), __name__, title="IDX pairs as of MNIST, plain or gzipped")
