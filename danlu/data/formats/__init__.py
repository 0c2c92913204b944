"""On-disk formats, one a file: each can tell a folder it knows, read it lazily and write it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from danlu.core.registry import Registry
from danlu.data.sample import Dataset

__all__ = ["FORMATS", "Format"]


class Format(Protocol):
    """One way to lay a data set out on disk."""

    def sniff(self, path: Path) -> bool:
        """Return whether ``path`` is a data set of this format; looks at names, never at pixels."""

    def read(self, path: Path) -> dict[str, Dataset]:
        """Return the splits found: ``"all"`` when none is named, else of ``train``, ``validation``, ``test``.

        Raises:
            InputError: damaged; names the file and the byte or line, the reason and how to mend it.
        """

    def write(self, splits: Mapping[str, Dataset], path: Path) -> None:
        """Write the splits into the new folder ``path``, whole or not at all.

        Raises:
            InputError: ``path`` holds something, or the format cannot hold these pictures.
        """


FORMATS: Registry[Format] = Registry("format", "danlu.data.formats")
