"""Archives from outside, unpacked only when every entry is a plain file or folder inside the target.

Links, devices, absolute names, ``..``, names that differ in letter case only, and archives that grow beyond a limit
are refused as a whole: nothing of them is kept. Python's own extraction filters are not relied on, because several
versions let crafted link chains out of the target; here no link is ever made.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from danlu.core.errors import InputError
from danlu.core.files import whole_folder
from danlu.data.names import NAME_LIMIT, quoted

__all__ = ["deb_content", "unpack_tar"]

MAX_FILES = 10_000
_HEADERS = 1 << 24  # bytes allowed for headers and padding beside the files' own
_AR_MAGIC = b"!<arch>\n"


class _Capped(io.RawIOBase):
    """A reader that stops with an error after ``limit`` bytes, however small the compressed file was."""

    def __init__(self, file: BinaryIO, limit: int, where: str) -> None:
        self._file, self._left, self._limit, self._where = file, limit, limit, where

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, 1 << 20) if size >= 0 else 1 << 20)
        self._left -= len(data)
        if self._left < 0:
            raise InputError(f"grows beyond {self._limit:,} bytes when unpacked", where=self._where)
        return data


def _unzipped(file: BinaryIO) -> BinaryIO:
    """Return a reader of the uncompressed bytes; the compression is told by the content, not by the name."""
    start = file.read(6)
    file.seek(-len(start), io.SEEK_CUR)
    if start.startswith(b"\x1f\x8b"):
        return gzip.open(file, "rb")  # type: ignore[return-value]
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.open(file, "rb")  # type: ignore[return-value]
    if start.startswith(b"BZh"):
        return bz2.open(file, "rb")  # type: ignore[return-value]
    return file


def _check_member(member: tarfile.TarInfo, seen: set[str], where: str) -> PurePosixPath | None:
    """Return the relative path of a plain file, None for a folder; refuse all else."""
    shown = f"entry {quoted(member.name)}"
    if not (member.isreg() or member.isdir()) or member.issparse():
        kind = "a link" if member.issym() or member.islnk() else "neither a plain file nor a folder"
        raise InputError(f"{shown} is {kind}; nothing was unpacked", where=where)
    name = PurePosixPath(member.name)
    bad = any(part == ".." or "\\" in part or ":" in part or "\0" in part for part in name.parts)
    if name.is_absolute() or bad or not member.name.strip():
        raise InputError(f"{shown} would leave the folder; nothing was unpacked", where=where)
    if any(len(part.encode("utf-8", "surrogateescape")) > NAME_LIMIT for part in name.parts):
        raise InputError(f"{shown} is longer than {NAME_LIMIT} bytes; nothing was unpacked", where=where)
    if member.isdir():
        return None
    folded = str(name).casefold()
    if folded in seen:
        raise InputError(f"{shown} stands twice (letter case apart); nothing was unpacked", where=where)
    seen.add(folded)
    return name


def _unpack(file: BinaryIO, folder: Path, limit: int, where: str) -> None:
    seen: set[str] = set()
    total = 0
    capped = _Capped(_unzipped(file), limit + _HEADERS, where)
    with tarfile.open(fileobj=capped, mode="r|") as archive:  # a stream: no seeking, one pass
        for count, member in enumerate(archive):
            name = _check_member(member, seen, where)
            total += member.size
            if count >= MAX_FILES:
                raise InputError(f"holds more than {MAX_FILES:,} entries; nothing was unpacked", where=where)
            if total > limit:
                raise InputError(f"its files are larger than {limit:,} bytes in all; nothing was unpacked", where=where)
            if name is None:
                continue
            target = folder.joinpath(*name.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(member)
            assert content is not None
            with content, open(target, "xb") as out:
                shutil.copyfileobj(content, out, 1 << 20)
    while capped.read(1 << 20):  # to the end, where the compression keeps its checksum
        pass


def unpack_tar(source: Path, target: Path, *, limit: int, begin: int = 0, length: int | None = None) -> Path:
    """Unpack a tar file (plain, gzip, xz or bzip2) into the folder ``target``, whole or not at all.

    Args:
        source: the archive.
        target: the folder to make; one that exists is replaced.
        limit: the most bytes all files may have together.
        begin: where in ``source`` the archive begins.
        length: how long it is; to the end when not given.

    Raises:
        InputError: damaged, too large, or an entry that is no plain file inside the folder.
    """
    where = str(source)
    with whole_folder(target) as folder:
        try:
            with open(source, "rb") as file:
                file.seek(begin)
                part: BinaryIO = file if length is None else io.BytesIO(file.read(length))
                _unpack(part, folder, limit, where)
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile) as error:
            raise InputError(f"is a damaged archive ({error})", where=where, mend="fetch it again") from error
        except RecursionError:  # tarfile reads a long name after a long name, and so on
            raise InputError("is a damaged archive (headers without end)", where=where, mend="fetch it again") from None
        except (ValueError, NotADirectoryError, FileExistsError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"holds entries that do not fit together ({error})", where=where) from error
    return target


def deb_content(package: Path, target: Path, *, limit: int) -> Path:
    """Unpack the files of a Debian package into ``target``; none of its scripts is run.

    Raises:
        InputError: no Debian package, or as :func:`unpack_tar`.
    """
    where = str(package)
    size = package.stat().st_size
    with open(package, "rb") as file:
        if file.read(len(_AR_MAGIC)) != _AR_MAGIC:
            raise InputError("is no Debian package", where=where)
        position = len(_AR_MAGIC)
        while position + 60 <= size:
            file.seek(position)
            header = file.read(60)
            length_text = header[48:58].strip()
            if header[58:60] != b"`\n" or not length_text.isdigit():
                raise InputError(f"byte {position:,} begins no package member", where=where)
            name, length = header[:16].decode("ascii", "replace").rstrip(" /"), int(length_text)
            position += 60
            if position + length > size:
                raise InputError(f"member {quoted(name)} is cut short", where=where, mend="fetch it again")
            if name.startswith("data.tar"):
                return unpack_tar(package, target, limit=limit, begin=position, length=length)
            position += length + length % 2
    raise InputError("holds no data.tar", where=where)
