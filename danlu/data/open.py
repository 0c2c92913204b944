"""A named data set or a path, opened and checked: its format found, its pictures read, its findings listed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from danlu.core.errors import InputError, nearest_names
from danlu.core.log import logger
from danlu.data import catalog
from danlu.data.doctor import Findings, inspect_arrays, inspect_files, inspect_folder, inspect_shards, inspect_table
from danlu.data.folders import existing_folder
from danlu.data.formats import FORMATS
from danlu.data.formats.shards import ShardDataset
from danlu.data.names import text_of
from danlu.data.sample import ArrayDataset, FileDataset

__all__ = ["Opened", "find_format", "open_source", "path_of"]


@dataclass(frozen=True)
class Opened:
    """``name`` to call it by, ``source`` to open it again, what was found, and the catalogue entry if it has one."""

    name: str
    source: str
    findings: Findings
    entry: catalog.Entry | None = None


def path_of(source: str | Path) -> Path:
    """Return the path a text stands for, also where the locale is not UTF-8 but the folder's name is.

    Raises:
        InputError: it begins with the home of a user there is none of.
    """
    path = _at_home(Path(source))
    if isinstance(source, str) and not os.path.lexists(path):
        again = _at_home(Path(os.fsdecode(source.encode("utf-8", "surrogateescape"))))
        if os.path.lexists(again):
            return again
    return path


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        mend = "write the path in full, or ./~ for a folder whose name begins so"
        raise InputError(f"no such home ({error})", where=text_of(path)[:400], mend=mend) from None


def find_format(path: Path) -> str:
    """Return the name of the one format that knows the folder.

    Raises:
        InputError: none or several do.
    """
    existing_folder(path)
    known = [name for name in FORMATS.names() if FORMATS.get(name).sniff(path)]
    if len(known) > 1:
        what = f"looks like several formats: {', '.join(known)}"
        raise InputError(what, where=text_of(path), mend="keep the files of one format in the folder")
    # A folder no format knows is one of pictures gone wrong: its reader says best what is missing.
    return known[0] if known else "image_folder"


def open_source(source: str | Path, *, download: bool = False) -> Opened:
    """Open a catalogue data set by name or a folder by path, and check all of it.

    Raises:
        InputError: no such thing (with the nearest names), a catalogue data set not fetched yet, or a damaged file.
    """
    if isinstance(source, str) and source in catalog.CATALOG:
        found = catalog.entry(source)
        if Path(source).is_dir():
            logger.warning("%s is the data set of the catalogue; the folder of that name here is ./%s", source, source)
        if download and not catalog.is_present(source):
            catalog.get(source)
        findings = inspect_arrays(source, found.form, catalog.read(source))
        catalog.check_hash(source, findings.report.hash)
        return Opened(source, source, findings, found)
    path = path_of(source)
    if isinstance(source, str) and not os.path.lexists(path) and not _is_path(source):
        beside = [text_of(entry.name) for entry in Path().iterdir() if entry.is_dir()]
        raise InputError(
            f"unknown data set {source!r}, and there is no such folder",
            nearest=nearest_names(source, [*catalog.CATALOG, *beside]),
            allowed=[*catalog.CATALOG, "a folder of class folders"],
        )
    form = find_format(path)
    name, where = text_of(Path(os.path.abspath(path)).name) or "data", text_of(os.path.abspath(path))
    if form == "image_folder":
        return Opened(name, where, inspect_folder(path))
    splits = FORMATS.get(form).read(path)
    shards = {part: dataset for part, dataset in splits.items() if isinstance(dataset, ShardDataset)}
    if shards and len(shards) == len(splits):
        return Opened(name, where, inspect_shards(where, shards))
    files = {part: dataset for part, dataset in splits.items() if isinstance(dataset, FileDataset)}
    if files and len(files) == len(splits):
        inspected = inspect_table(where, files) if form == "labels_csv" else inspect_files(where, form, files)
        return Opened(name, where, inspected)
    arrays = {part: dataset for part, dataset in splits.items() if isinstance(dataset, ArrayDataset)}
    if len(arrays) != len(splits) or not arrays:
        raise InputError(f"format {form!r} gives no pictures in memory", where=where)
    return Opened(name, where, inspect_arrays(where, form, arrays))


def _is_path(source: str) -> bool:
    return source.startswith((".", "~")) or "/" in source or os.sep in source
