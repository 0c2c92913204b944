"""Files that are whole or absent: written to a temporary name, flushed to disk, renamed over the old one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.core.errors import InputError

__all__ = [
    "cache_home",
    "check_space",
    "check_writable",
    "lock",
    "read_json",
    "sha256_bytes",
    "sha256_file",
    "slug",
    "sync_folder",
    "temporary_name",
    "whole_folder",
    "write_json",
    "write_whole",
]

JSON_LIMIT = 256 * 2**20


def cache_home() -> Path:
    """Return the folder for downloads and caches: ``$DANLU_HOME``, or the platform's cache folder."""
    if home := os.environ.get("DANLU_HOME"):
        return Path(home).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("danlu", appauthor=False))


def temporary_name(path: Path) -> Path:
    """Return the name ``path`` has while it is being written (same folder, so that the rename is atomic)."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable; a no-op where folders cannot be opened (Windows)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old content or the new one, also after ``kill -9``.

    Raises:
        InputError: the disk is full or the folder cannot be written; the old file is kept, no temporary is left.
    """
    temporary = temporary_name(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _named(error, path) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _named(error: OSError, path: Path) -> InputError:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        mend = "free some space, or give another --out; what was there before is kept"
        return InputError("no space left to write this file", where=str(path), mend=mend)
    return InputError(
        f"cannot be written ({error.strerror or error})", where=str(path), mend="give an --out that can be written"
    )


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block ends well and vanishes when it does not.

    An existing ``path`` is replaced: for an instant it stands under a second name, never half-written.
    """
    temporary = temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with open(file, "r+b") as opened:  # Windows flushes no file that was opened to read
                    os.fsync(opened.fileno())
        sync_folder(temporary)
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            shutil.rmtree(old, ignore_errors=True)
            os.replace(path, old)
            os.replace(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _named(error, path) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _finite(value: Any, key: str = "") -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key or 'value'} is {value}: records hold finite numbers or null")
    if isinstance(value, dict):
        for name, item in value.items():
            _finite(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            _finite(item, f"{key}[{position}]")


def write_json(path: Path, document: Any) -> None:
    """Write ``document`` as readable JSON, whole or not at all; NaN and infinity are refused."""
    _finite(document)
    write_whole(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise InputError(f"key {key!r} stands twice")
        document[key] = value
    return document


def _refuse_constant(name: str) -> Any:
    raise InputError(f"{name} is no number")


def read_json(path: Path) -> Any:
    """Read a JSON file of at most 256 MiB; repeated keys, NaN and broken text are named errors.

    Raises:
        InputError: the file is missing, too large, not UTF-8 or not JSON.
    """
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise InputError(f"is larger than {JSON_LIMIT >> 20} MiB", where=str(path))
        text = path.read_text(encoding="utf-8-sig")
        return json.loads(text, object_pairs_hook=_refuse_repeats, parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text (byte {error.start})", where=str(path)) from error
    except json.JSONDecodeError as error:
        raise InputError(f"is not JSON: {error.msg}", where=f"{path}, line {error.lineno}") from error
    except RecursionError:
        raise InputError("is nested too deeply", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=str(path)) from error
    except InputError as error:
        raise error if error.where else InputError(error.what, where=str(path)) from None


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def slug(name: str, limit: int = 80) -> str:
    """Return ``name`` as one safe file name: letters of any script and digits stay, all else becomes ``-``.

    Never empty, never a dot name, never a path; cut to ``limit`` characters.
    """
    text = unicodedata.normalize("NFC", name)
    text = re.sub(r"[^\w]+", "-", text, flags=re.UNICODE).strip("-_")[:limit].strip("-_")
    return text or "unnamed"


@contextlib.contextmanager
def lock(folder: Path, purpose: str = "run") -> Iterator[None]:
    """Hold the lock of ``folder`` for this process; a second process is refused at once.

    Raises:
        InputError: another process holds the lock.
    """
    import filelock

    guard = filelock.FileLock(folder / ".lock", thread_local=False)
    try:
        guard.acquire(timeout=0)
    except filelock.Timeout:
        raise InputError(
            f"another process is working in this {purpose} folder",
            where=str(folder),
            mend="wait for it, or give another --out",
        ) from None
    try:
        yield
    finally:
        guard.release()


def check_writable(folder: Path) -> None:
    """Find out before the work starts that ``folder`` (or its nearest existing parent) can be written.

    Raises:
        InputError: it cannot; nothing is left behind.
    """
    existing = folder
    while not existing.exists():
        if existing.parent == existing:
            break
        existing = existing.parent
    if not existing.is_dir():
        raise InputError("is a file, a folder is needed", where=str(existing), mend="give another --out")
    probe = existing / f".danlu-{os.getpid()}.probe"
    try:
        probe.write_bytes(b"")
    except OSError as error:
        raise _named(error, folder) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """Refuse work that would need ``needed`` bytes in ``folder`` where fewer are free.

    Raises:
        InputError: too little space.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        what = f"needs about {needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
        raise InputError(what, where=str(folder), mend="free some space, or give another --out")
