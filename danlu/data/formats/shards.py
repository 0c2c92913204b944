"""Tar shards with an index of offsets, read at random: for data larger than memory, in few large files.

``train-000000.tar``, … hold ``00000000.png`` (or ``.jpg``, …: files are packed as they are) and ``00000000.cls``, the
number of its class, as webdataset reads them. ``train.index`` says where each picture lies: its shard, first byte,
length, label, size and SHA-256, 64 bytes a picture. ``shards.json`` names classes and shards, with the bytes of each
and the SHA-256 of each index. So the order of training is a permutation of the whole data set, and a resume is exact;
nothing is unpacked, and a picture is verified whenever it is read.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from danlu.core.errors import InputError
from danlu.core.files import read_json, sha256_bytes, whole_folder, write_json
from danlu.core.records import SCHEMA, check_schema
from danlu.data.decode import decode, inspect
from danlu.data.folders import check_new_folder
from danlu.data.formats import FORMATS
from danlu.data.names import check_class_names, text_of
from danlu.data.sample import Dataset, Sample
from danlu.data.splits import ORDER

__all__ = ["SHARD_BYTES", "ShardDataset", "Shards"]

# A shard is closed when it holds this much.
SHARD_BYTES = 256 * 2**20
_DOCUMENT = "shards.json"
_ROW = np.dtype(
    [
        ("offset", "<u8"),
        ("size", "<u4"),
        ("shard", "<u4"),
        ("label", "<u4"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("channels", "<u4"),
        ("sha256", "V32"),
    ]
)
# So many files stay open; those of further shards are opened for each picture.
_OPEN = 128
_MEND = "copy the folder again from where it was packed, or pack it again"


class _Names(Sequence[str]):
    """The ids of a split, made when they are asked for: ``train/00000000`` and so on."""

    def __init__(self, split: str, count: int) -> None:
        self.split, self.length = split, count

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self.length))]
        if not -self.length <= index < self.length:
            raise IndexError(index)
        return f"{self.split}/{index % self.length:08d}"


class _Files:
    """Reads from shards at given bytes, from any number of threads."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.open: dict[int, int] = {}
        self.guard = threading.Lock()
        weakref.finalize(self, _close, self.open)

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset``, fewer where the file ends."""
        if not hasattr(os, "pread"):
            with open(self.paths[shard], "rb") as file:
                file.seek(offset)
                return file.read(size)
        with self.guard:
            descriptor = self.open.get(shard)
            if kept := descriptor is None and len(self.open) < _OPEN:
                descriptor = self.open[shard] = os.open(self.paths[shard], os.O_RDONLY)
        if descriptor is not None:
            return _whole(descriptor, offset, size)
        assert not kept
        with open(self.paths[shard], "rb") as file:
            return _whole(file.fileno(), offset, size)


def _whole(descriptor: int, offset: int, size: int) -> bytes:
    parts: list[bytes] = []
    while size and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


class ShardDataset:
    """One split in shards; pictures are read and decoded when they are asked for.

    Args:
        split: its name.
        paths: the shards.
        rows: one a picture, see the module.
        classes: the names of the classes.
    """

    def __init__(self, split: str, paths: list[Path], rows: NDArray[Any], classes: Sequence[str]) -> None:
        self.ids: Sequence[str] = _Names(split, len(rows))
        self.classes: tuple[str, ...] = tuple(classes)
        self.labels: NDArray[np.int64] = rows["label"].astype(np.int64)
        self.rows = rows
        self._files = _Files(paths)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        picture = decode(self.content(index), None, name=self.ids[index])
        return Sample(self.ids[index], picture, {"label": int(self.labels[index])})

    def content(self, index: int) -> bytes:
        """Return the bytes of one picture's file, verified.

        Raises:
            InputError: they cannot be read or are not those that were packed; it names shard and byte.
        """
        row = self.rows[index]
        path, offset, size = self._files.paths[row["shard"]], int(row["offset"]), int(row["size"])
        where = f"{text_of(path)}, bytes {offset} to {offset + size} ({self.ids[index]})"
        try:
            found = self._files.read(int(row["shard"]), offset, size)
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror or error})", where=where, mend=_MEND) from error
        if len(found) < size:
            raise InputError(f"the shard ends at byte {offset + len(found)}", where=where, mend=_MEND)
        if hashlib.sha256(found).digest() != row["sha256"].tobytes():
            raise InputError("is damaged: these are not the bytes that were packed", where=where, mend=_MEND)
        return found

    def digests(self) -> list[str]:
        """Return the SHA-256 of each picture's file, in hexadecimal."""
        return [digest.tobytes().hex() for digest in self.rows["sha256"]]


class Shards:
    """Tar shards with an index; see the module."""

    def sniff(self, path: Path) -> bool:
        """Return whether ``path`` holds a ``shards.json``."""
        return (path / _DOCUMENT).is_file()

    def read(self, path: Path) -> dict[str, Dataset]:
        """Open the index of each split; no shard is read yet.

        Raises:
            InputError: a shard is missing or of another length, or an index is damaged.
        """
        where = text_of(path / _DOCUMENT)
        document = check_schema(read_json(path / _DOCUMENT), where)
        try:
            classes = check_class_names(document["classes"], where)
            parts = {
                str(part): (str(facts["sha256"]), [(str(n), int(b)) for n, b in facts["shards"]])
                for part, facts in document["splits"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"is no index of shards: {error!r}", where=where, mend=_MEND) from None
        if not parts.keys() <= set(ORDER):
            raise InputError(f"names the splits {', '.join(parts)}", where=where, allowed=ORDER)
        return {part: _open(path, part, parts[part], classes) for part in ORDER if part in parts}

    def write(self, splits: Mapping[str, Dataset], path: Path) -> None:
        """Pack pictures: files as they are, pictures in memory as PNG.

        Raises:
            InputError: ``path`` is not empty, a picture is damaged, or a class name that could not be read again.
        """
        check_new_folder(path)
        classes = list(check_class_names(next(iter(splits.values())).classes, text_of(path)))
        with whole_folder(path) as folder:
            facts = {part: _pack(folder, part, splits[part]) for part in ORDER if part in splits}
            write_json(folder / _DOCUMENT, {"schema": SCHEMA, "classes": classes, "splits": facts})


def _open(path: Path, part: str, facts: tuple[str, list[tuple[str, int]]], classes: tuple[str, ...]) -> ShardDataset:
    digest, shards = facts
    index = path / f"{part}.index"
    paths = []
    for name, size in shards:
        shard = path / name
        if shard.name != name or not shard.is_file():
            raise InputError("no such shard", where=text_of(shard), mend=_MEND)
        if (found := shard.stat().st_size) != size:
            raise InputError(
                f"is damaged: it has {found:,} bytes, {size:,} were packed", where=text_of(shard), mend=_MEND
            )
        paths.append(shard)
    try:
        content = index.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=text_of(index), mend=_MEND) from error
    if sha256_bytes(content) != digest or len(content) % _ROW.itemsize:
        raise InputError("is damaged: its bytes are not those that were packed", where=text_of(index), mend=_MEND)
    rows = np.frombuffer(content, _ROW)
    if len(rows) and (rows["shard"].max() >= len(paths) or rows["label"].max() >= len(classes)):
        raise InputError("names a shard or a class that is not there", where=text_of(index), mend=_MEND)
    return ShardDataset(part, paths, rows, classes)


def _pack(folder: Path, part: str, dataset: Dataset) -> dict[str, Any]:
    """Write shards and index of one split; return its entry in ``shards.json``."""
    rows = np.zeros(len(dataset), _ROW)
    shards: list[tuple[str, int]] = []
    samples = iter(range(len(dataset)))
    index = next(samples, None)
    while index is not None:
        name = f"{part}-{len(shards):06d}.tar"
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            while index is not None and tar.offset < SHARD_BYTES:
                rows[index] = _add(tar, index, dataset, len(shards))
                index = next(samples, None)
        shards.append((name, (folder / name).stat().st_size))
    content = rows.tobytes()
    (folder / f"{part}.index").write_bytes(content)
    return {"pictures": len(rows), "sha256": sha256_bytes(content), "shards": [list(shard) for shard in shards]}


def _add(tar: tarfile.TarFile, index: int, dataset: Dataset, shard: int) -> tuple[Any, ...]:
    """Add one picture and its label to a shard; return its row of the index."""
    sample = dataset[index]
    suffix, content = _content(sample)
    facts, _ = inspect(content, name=sample.id)
    label = int(sample.targets["label"])
    for name, data in ((f"{index:08d}{suffix}", content), (f"{index:08d}.cls", str(label).encode())):
        member = tarfile.TarInfo(name)
        member.size = len(data)
        if name.endswith(suffix):
            offset = tar.offset + tarfile.BLOCKSIZE  # after a header of one block, as names are short
        tar.addfile(member, io.BytesIO(data))
    digest = np.frombuffer(hashlib.sha256(content).digest(), "V32")[0]
    return offset, len(content), shard, label, facts.height, facts.width, facts.channels, digest


def _content(sample: Sample) -> tuple[str, bytes]:
    if isinstance(sample.picture, Path):
        try:
            return sample.picture.suffix.lower(), sample.picture.read_bytes()
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror or error})", where=text_of(sample.picture)) from error
    pixels = sample.picture[..., 0] if sample.picture.shape[2] == 1 else sample.picture
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return ".png", buffer.getvalue()


FORMATS.register(
    "shards", Shards(), __name__, title="tar shards read at random through an index, for data beyond memory"
)
