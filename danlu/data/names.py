"""Names of files, folders and classes: shown as text in every locale, and checked before they can do harm."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath

from danlu.core.errors import InputError

__all__ = [
    "NAME_LIMIT",
    "case_clashes",
    "check_class_names",
    "folder_name_fault",
    "name_warnings",
    "quoted",
    "read_class_names",
    "shown",
    "text_of",
]

NAME_LIMIT = 255

# The usual kind of name, which needs no closer look.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.() -]*(?<![ .])", re.ASCII)
_RESERVED = {"con", "prn", "aux", "nul", *(f"com{n}" for n in range(1, 10)), *(f"lpt{n}" for n in range(1, 10))}


def text_of(path: PurePath | str) -> str:
    """Return a path as text that is the same in every locale and can always be written as UTF-8.

    File names are bytes on Linux. They are read as UTF-8 whatever the locale says; bytes that are none are shown as
    ``\\xNN``. Separators become ``/``.
    """
    text = path.as_posix() if isinstance(path, PurePath) else path
    try:
        return os.fsencode(text).decode("utf-8", errors="backslashreplace")
    except UnicodeEncodeError:  # a text typed in, with letters the locale's file names cannot have
        return text.encode("utf-8", errors="backslashreplace").decode()


def quoted(name: str, limit: int = 60) -> str:
    """Return a name for a message: quoted, control characters escaped, cut when it is long."""
    return repr(name) if len(name) <= limit else f"{name[:limit]!r}… ({len(name):,} characters)"


def shown(name: str) -> str:
    """Return a name for a line of text: as it is, or quoted whole where line ends or escape codes would tear the line.

    A file's name may hold what colours a terminal, or a line that says that all is well.
    """
    return name if name.isprintable() else quoted(name, len(name))


def check_class_names(names: Iterable[str], where: str) -> tuple[str, ...]:
    """Return class names read from a file, after refusing what no record could hold.

    Raises:
        InputError: no text, empty, repeated, longer than 255 characters, or with control characters.
    """
    checked: list[str] = []
    for position, name in enumerate(names):
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"class {position} has no name", where=where)
        if len(name) > NAME_LIMIT:
            raise InputError(f"class name {quoted(name)} is too long", where=where, mend=f"use at most {NAME_LIMIT}")
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise InputError(f"class name {quoted(name)} holds control characters", where=where)
        if name in checked:
            raise InputError(f"class name {quoted(name)} stands twice", where=where)
        checked.append(name)
    if not checked:
        raise InputError("names no classes", where=where)
    return tuple(checked)


def read_class_names(file: Path) -> tuple[str, ...]:
    """Return the class names of a text file, one a line; empty lines at its end are none.

    Raises:
        InputError: no text, or what :func:`check_class_names` refuses.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"cannot be read as text ({error})", where=str(file)) from error
    while lines and not lines[-1].strip():  # the original CIFAR files end with empty lines
        lines.pop()
    return check_class_names((line.rstrip("\r") for line in lines), str(file))


def folder_name_fault(name: str) -> str | None:
    """Return why ``name`` cannot be a folder's name on every system, or None when it can."""
    if name in (".", "..") or any(letter in "/\\\0" for letter in name):
        return "it would lead to another folder"
    if name.startswith("."):
        return "names that begin with a dot are hidden"
    if len(name.encode("utf-8", "surrogatepass")) > NAME_LIMIT:
        return f"it is longer than {NAME_LIMIT} bytes"
    return None


def _warning(name: str) -> str | None:
    """Return what is unusual about one name, or None."""
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return "holds control characters"
    if "\\x" in name:
        return "is not UTF-8 text; the bytes are shown as \\xNN"
    if name[:1] in ("=", "+", "-", "@"):
        return "would be read as a formula by a spreadsheet; tables made here escape it"
    if any(letter in name for letter in '<>&"'):
        return "holds markup characters; reports made here escape them"
    if name.partition(".")[0].lower() in _RESERVED or name != name.rstrip(" .") or any(c in name for c in ":*?|\\"):
        return "is not allowed on Windows"
    if name != unicodedata.normalize("NFC", name):
        return "is not in Unicode normal form C; it may look equal to another name"
    return None


def name_warnings(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return (name, what is unusual about it) of those names that are likely to make trouble elsewhere."""
    return [
        (name, warning)
        for name in names
        if _PLAIN.fullmatch(name) is None or name.partition(".")[0].lower() in _RESERVED
        if (warning := _warning(name)) is not None
    ]


def case_clashes(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return (name, which other it clashes with) of names that differ in letter case or Unicode form only.

    They are one name on some systems.
    """
    found: list[tuple[str, str]] = []
    by_folded: dict[str, str] = {}
    for name in names:
        composed = name if name.isascii() else unicodedata.normalize("NFC", name)
        other = by_folded.setdefault(composed.casefold(), name)
        if other != name:
            how = "Unicode form" if unicodedata.normalize("NFC", other) == composed else "letter case or Unicode form"
            found.append((name, f"differs from {quoted(other)} in {how} only"))
    return found
