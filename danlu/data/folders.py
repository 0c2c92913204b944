"""Folders as users give them: found, or refused with one message that says where the data may be."""

from __future__ import annotations

import os
from pathlib import Path

from danlu.core.errors import InputError, nearest_names
from danlu.data.names import text_of

__all__ = ["check_new_folder", "existing_folder"]


def check_new_folder(path: Path) -> None:
    """Refuse to write into a folder that holds something.

    Raises:
        InputError: ``path`` is a file or a folder that is not empty.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError("exists and is not empty", where=text_of(path), mend="give the name of a new folder")


def existing_folder(path: Path) -> Path:
    """Return ``path`` when it is a folder that can be listed.

    Raises:
        InputError: it does not exist (with the nearest names beside it), is a file, or may not be read.
    """
    try:
        if path.is_dir():
            any(path.iterdir())
            os.stat(os.path.join(path, "."))  # names may be listed where no file may be reached
            return path
        if path.exists():
            raise InputError(
                "is a file, a folder is needed",
                where=text_of(path),
                mend=f"give the folder that holds the data, perhaps {text_of(path.parent)}",
            )
    except PermissionError:
        raise InputError("may not be read", where=text_of(path), mend="ask its owner for the right to read") from None
    except OSError as error:
        what = f"cannot be opened ({error.strerror or error})"
        raise InputError(what, where=text_of(path)[:200], mend="check the path") from None
    parent, name = path, path.name
    while not parent.is_dir() and parent.parent != parent:
        parent, name = parent.parent, parent.name
    beside = [text_of(entry.name) for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    nearest = [text_of(parent / entry) for entry in nearest_names(text_of(name), beside)]
    raise InputError(
        "no such folder", where=text_of(path)[:400], nearest=nearest, mend="check the spelling of the path"
    )
