"""A table beside the pictures: ``labels.csv`` with one row a picture, which may have several labels, or none.

::

    name,labels,split
    images/0001.jpg,dog;sofa,train
    images/0002.jpg,,train
    images/0003.jpg,cat,test

``split`` may be left out, for all rows. Names are paths below the folder of the table, with forward slashes. Where
every picture has exactly one label the data set is one of classes as any other.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from danlu.core.errors import InputError, nearest_names
from danlu.core.files import whole_folder, write_whole
from danlu.data.decode import SUFFIXES
from danlu.data.folders import check_new_folder
from danlu.data.formats import FORMATS
from danlu.data.names import quoted, text_of
from danlu.data.sample import Dataset, FileDataset
from danlu.data.splits import ORDER, split_name

__all__ = ["LabelsCsv", "unnamed_pictures"]

_TABLE = "labels.csv"
_COLUMNS = ("name", "labels", "split")
_MOST_BYTES = 256_000_000

Row = tuple[str, tuple[str, ...], str]


class LabelsCsv:
    """Pictures with a table of their labels; see the module."""

    def sniff(self, path: Path) -> bool:
        """Return whether ``path`` holds a table of labels."""
        return path.is_dir() and (path / _TABLE).is_file()

    def read(self, path: Path) -> dict[str, Dataset]:
        """Read the table; pictures are decoded when they are asked for.

        Raises:
            InputError: a line that is wrong, a picture that is missing or outside the folder, or one named twice.
        """
        rows = _rows(path / _TABLE)
        classes = tuple(sorted({label for _, labels, _ in rows for label in labels}))
        several = any(len(labels) != 1 for _, labels, _ in rows)
        place = {name: index for index, name in enumerate(classes)}
        splits: dict[str, Dataset] = {}
        for part in (part for part in ORDER if any(row[2] == part for row in rows)):
            chosen = [row for row in rows if row[2] == part]
            labels = np.zeros((len(chosen), len(classes)), dtype=np.int64)
            for index, (_, names, _) in enumerate(chosen):
                labels[index, [place[name] for name in names]] = 1
            ids = [name for name, _, _ in chosen]
            splits[part] = FileDataset(
                path, [_path(name) for name in ids], labels if several else labels.argmax(axis=1), classes, ids
            )
        return splits

    def write(self, splits: Mapping[str, Dataset], path: Path) -> None:
        """Write ``labels.csv`` and the pictures below ``images/``; those in memory as PNG, files as they are.

        Raises:
            InputError: ``path`` is not empty, or a class name holds what stands between names.
        """
        check_new_folder(path)
        classes = next(iter(splits.values())).classes
        for name in classes:
            if ";" in name or "\n" in name or "\r" in name or name != name.strip() or not name:
                raise InputError(f"class {quoted(name)} cannot stand in a list of labels", where=text_of(path))
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS if set(splits) != {"all"} else _COLUMNS[:2])
        with whole_folder(path) as folder:
            for part in (part for part in ORDER if part in splits):
                dataset = splits[part]
                (folder / "images" / part).mkdir(parents=True)
                for index in range(len(dataset)):
                    label = dataset.labels[index]
                    names = [classes[int(label)]] if label.ndim == 0 else [classes[k] for k in np.flatnonzero(label)]
                    file = _save(dataset, index, folder, f"images/{part}/{index:06d}")
                    writer.writerow([file, ";".join(names), *([part] if part != "all" else [])])
            write_whole(folder / _TABLE, text.getvalue().encode("utf-8"))


def unnamed_pictures(splits: Mapping[str, FileDataset]) -> list[tuple[str, str]]:
    """Return (path as text, why it is left out) of the pictures in the folder that the table does not name."""
    root = next(iter(splits.values())).root
    named = {text_of(path) for dataset in splits.values() for path in dataset.paths}
    there = {text_of(file.relative_to(root)) for file in root.rglob("*") if file.suffix.lower() in SUFFIXES}
    return [(name, f"has no row in {_TABLE}") for name in sorted(there - named)]


def _path(name: str) -> Path:
    """Return the path a name stands for: file names are UTF-8, whatever the locale says."""
    return Path(os.fsdecode(name.encode("utf-8")))


def _save(dataset: Dataset, index: int, folder: Path, stem: str) -> str:
    picture = dataset[index].picture
    if isinstance(picture, Path):
        shutil.copyfile(picture, folder / (name := stem + picture.suffix))
        return name
    Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(folder / (name := f"{stem}.png"), "PNG")
    return name


def _rows(table: Path) -> list[Row]:
    """Return (name, labels, split) of every row, checked.

    Raises:
        InputError: it names the table and the line.
    """
    where = text_of(table)
    try:
        if (size := table.stat().st_size) > _MOST_BYTES:
            raise InputError(f"has {size:,} bytes, at most {_MOST_BYTES:,} are read", where=where)
        text = table.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"is no UTF-8 text (byte {error.start})", where=where, mend="save it as UTF-8") from None
    except OSError as error:
        mend = "ask its owner for the right to read"
        raise InputError(f"cannot be read ({error.strerror or error})", where=where, mend=mend) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[Row] = []
    seen: dict[str, int] = {}
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if tuple(header) not in (_COLUMNS, _COLUMNS[:2]):
            near = [name for cell in header for name in nearest_names(cell, _COLUMNS, limit=1) if name != cell]
            allowed = ["name,labels", "name,labels,split"]
            raise InputError(f"begins with {','.join(header)!r}", where=f"{where}:1", nearest=near, allowed=allowed)
        for cells in reader:
            line = f"{where}:{reader.line_num}"
            if not any(cells):
                continue
            row = _row(cells, len(header), table.parent, line)
            if row[0] in seen:
                raise InputError(f"{quoted(row[0])} stands in line {seen[row[0]]} already", where=line)
            seen[row[0]] = reader.line_num
            rows.append(row)
    except csv.Error as error:
        raise InputError(f"is damaged ({error})", where=f"{where}:{reader.line_num}") from None
    if not rows:
        raise InputError("names no picture", where=where, mend="write one row a picture: name,labels")
    parts = {part for _, _, part in rows}
    if "all" in parts and len(parts) > 1:
        raise InputError("some rows have a split and some have none", where=where, mend="give all of them one, or none")
    return rows


def _row(cells: list[str], columns: int, root: Path, line: str) -> Row:
    if len(cells) != columns:
        what = f"has {len(cells)} columns, the first line {columns}"
        raise InputError(what, where=line, mend="separate the labels of a picture by semicolons")
    name = cells[0].strip()
    pure = PurePosixPath(name)
    if not name or "\0" in name or "\\" in name or pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[0]:
        mend = "write paths below the folder of the table, with forward slashes"
        raise InputError(f"{quoted(name)} is no path of a picture below the table's folder", where=line, mend=mend)
    if pure.suffix.lower() not in SUFFIXES:
        raise InputError(f"{quoted(name)} is no picture by its suffix", where=line, allowed=sorted(SUFFIXES))
    path = root / _path(name)
    if not os.path.isfile(path) or not path.resolve().is_relative_to(root.resolve()):
        what = f"{quoted(name)} is not there, or may not be reached"
        raise InputError(what, where=line, mend="add the picture, or remove the line")
    labels = [label.strip() for label in cells[1].split(";")] if cells[1].strip() else []
    if "" in labels or len(set(labels)) < len(labels):
        raise InputError(f"labels {quoted(cells[1])}: an empty one, or one named twice", where=line)
    split = split_name(cells[2].strip()) if columns == len(_COLUMNS) else "all"
    if split is None:
        raise InputError(f"{quoted(cells[2])} is no split", where=line, allowed=ORDER[1:])
    return name, tuple(labels), split


FORMATS.register(
    "labels_csv", LabelsCsv(), __name__, title="pictures with a table of their labels, one, several or none"
)
