"""Every picture file of a folder, read and decoded once: in threads, with progress, remembered for the next time.

What was found is kept as JSON outside the data set, in ``<cache>/checks/``, keyed by the folder; a file is looked at
again when its size, times or number on the disk differ.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import PIL

from danlu.core.environment import usable_cores
from danlu.core.errors import InputError
from danlu.core.files import JSON_LIMIT, cache_home, read_json, write_whole
from danlu.core.log import logger, progress
from danlu.data import decode
from danlu.data.names import text_of

__all__ = ["FileFacts", "cache_path", "examine"]

SCHEMA = 2
_CHUNK = 16


@dataclass(frozen=True)
class FileFacts:
    """One file: ``sha256`` of its bytes, and either why it cannot be used (``fault``) or what it holds.

    Without ``sha256`` the fault may be gone the next time, and is not remembered.
    """

    sha256: str
    fault: str | None = None
    height: int = 0
    width: int = 0
    mode: str = ""
    format: str = ""
    frames: int = 1
    orientation: int = 1
    channels: int = 0


def _look(path: Path) -> FileFacts:
    """Read and decode one file fully; a header alone would not show that the end is missing."""
    try:
        if (size := path.stat().st_size) > decode.MAX_BYTES:
            return FileFacts("", f"has {size:,} bytes, at most {decode.MAX_BYTES:,} are read")
        content = path.read_bytes()
    except OSError as error:
        return FileFacts("", f"cannot be read ({error.strerror or error})")
    digest = hashlib.sha256(content).hexdigest()
    try:
        facts, _ = decode.inspect(content)
    except InputError as error:
        return FileFacts("" if isinstance(error.__cause__, MemoryError) else digest, error.what)
    return FileFacts(digest, None, **asdict(facts), channels=facts.channels)


def cache_path(root: Path) -> Path:
    """Return where the facts of a folder are remembered."""
    key = hashlib.sha256(text_of(root.absolute()).encode()).hexdigest()[:32]
    return cache_home() / "checks" / f"{key}.json"


def _decoder() -> str:
    """Name what decided the facts: they are found anew when it changes."""
    return f"{SCHEMA}/{PIL.__version__}/{decode.MAX_PIXELS}/{decode.MAX_BYTES}"


def _remembered(root: Path) -> dict[str, Any]:
    path = cache_path(root)
    try:
        document = read_json(path) if path.exists() else {}
        if document.get("decoder") == _decoder() and isinstance(document.get("files"), dict):
            return dict(document["files"])
    except (InputError, AttributeError, OSError) as error:
        logger.debug("the remembered check of %s is not used: %s", text_of(root), error)
    return {}


def _recall(row: Any, stamp: str) -> FileFacts | None:
    """Return remembered facts if they are whole and of the same file."""
    try:
        if row[0] != stamp:
            return None
        facts = FileFacts(*row[1:])
        sound = len(facts.sha256) == 64 and (facts.fault is not None or min(facts.height, facts.width) > 0)
    except (TypeError, KeyError, IndexError):
        return None
    return facts if sound and isinstance(facts.fault, str | None) else None


def _stamp(path: Path) -> str:
    """Return what tells a file from others and from what it was before, short; empty where it cannot be told.

    Moved or copied files keep size and modification time; the time of their last change and their number differ.
    """
    try:
        status = path.stat()
    except OSError:
        return ""
    parts = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _look_at_some(paths: list[Path]) -> list[FileFacts]:
    return [_look(path) for path in paths]


def _look_at_all(root: Path, paths: Sequence[Path], threads: int) -> Iterator[FileFacts]:
    """Yield the facts of each path in order, looked at in ``threads`` threads, with progress."""
    chunks = [[root / path for path in paths[begin : begin + _CHUNK]] for begin in range(0, len(paths), _CHUNK)]
    done = 0
    with progress("check pictures", len(paths), "pictures") as advance, ThreadPoolExecutor(threads) as pool:
        try:
            for chunk in pool.map(_look_at_some, chunks):
                yield from chunk
                done += len(chunk)
                advance(done, "")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def examine(root: Path, paths: Sequence[Path], *, threads: int | None = None) -> list[FileFacts]:
    """Read and fully decode files, and return what was found, in the same order.

    Args:
        root: the folder of the data set.
        paths: files relative to ``root``.
        threads: how many threads decode; all usable cores when not given.
    """
    names = [text_of(path) for path in paths]
    stamps = [_stamp(root / path) for path in paths]
    remembered = _remembered(root)
    found = [_recall(remembered.get(name), stamp) if stamp else None for name, stamp in zip(names, stamps, strict=True)]
    missing = [index for index, facts in enumerate(found) if facts is None]
    if missing:
        new = _look_at_all(root, [paths[index] for index in missing], threads or usable_cores())
        try:
            for index, facts in zip(missing, new, strict=True):
                found[index] = facts
        finally:  # what was seen before Ctrl-C is kept
            _remember(root, names, stamps, found)
    return [facts for facts in found if facts is not None]


def _remember(root: Path, names: list[str], stamps: list[str], found: list[FileFacts | None]) -> None:
    """Write what was found, a short list a file: a million files take some 170 MB, and no more than is read back."""
    rows = {
        name: [stamp, *astuple(facts)]
        for name, stamp, facts in zip(names, stamps, found, strict=True)
        if facts is not None and facts.sha256
    }
    path = cache_path(root)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        document = {"schema": SCHEMA, "decoder": _decoder(), "folder": text_of(root), "files": rows}
        content = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        if len(content) > JSON_LIMIT:
            raise InputError(f"would have {len(content):,} bytes, at most {JSON_LIMIT:,} are read back")
        write_whole(path, content)
    except (InputError, OSError) as error:
        logger.warning("the check of %s cannot be remembered, it will be repeated: %s", text_of(root), error)
