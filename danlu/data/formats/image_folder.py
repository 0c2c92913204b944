"""Folders of pictures: one folder a class, either at the top or below ``train/``, ``validation/`` and ``test/``.

``val`` and ``valid`` stand for ``validation``, ``training`` for ``train``, ``testing`` for ``test``, in any case. A
folder with such a name is a split when it holds class folders, also where single pictures lie beside them, and a class
when it holds pictures alone. Pictures may lie at any depth below their class; links to files are followed, links to
folders below a class are not. Every file that is no picture of a class is listed with a reason.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from danlu.core.errors import InputError
from danlu.core.files import whole_folder
from danlu.data.decode import SUFFIXES
from danlu.data.folders import check_new_folder, existing_folder
from danlu.data.formats import FORMATS
from danlu.data.names import folder_name_fault, quoted, text_of
from danlu.data.sample import Dataset, FileDataset
from danlu.data.splits import ORDER, split_name

__all__ = ["ImageFolder", "Scan", "scan"]

_SPLITS = ("train", "validation", "test")
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", ".ds_store"}


@dataclass
class Scan:
    """What lies in a folder, before any picture is opened.

    ``pictures``: split -> class -> paths relative to the root, sorted by their text; ``others``: (path as text, why it
    is no picture of the data set).
    """

    root: Path
    pictures: dict[str, dict[str, list[Path]]] = field(default_factory=dict)
    others: list[tuple[str, str]] = field(default_factory=list)

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names of all splits, sorted."""
        return tuple(sorted({name for found in self.pictures.values() for name in found}))


def _is_picture_name(path: Path) -> bool:
    """Return whether the file's suffix is one of a picture format that is read."""
    return path.suffix.lower() in SUFFIXES


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _entries(path: Path) -> list[Path]:
    """Return what lies in a folder; nothing where it may not be read, which the walk then lists."""
    try:
        return list(path.iterdir())
    except OSError:
        return []


def _visible_folders(path: Path) -> list[Path]:
    found = (entry for entry in _entries(path) if os.path.isdir(entry) and not _is_hidden(entry.name))
    return sorted(found, key=lambda entry: text_of(entry.name))


def _has_pictures(path: Path) -> bool:
    return any(_is_picture_name(entry) for entry in _entries(path) if not _is_hidden(entry.name))


def _is_no_file(path: Path) -> bool:
    """Return whether it is a pipe or a device: to open it might be to wait for ever for whoever writes into it."""
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False  # to read it says why it cannot be read


def _other_reason(path: Path) -> str:
    """Say why a file is left out, with a look at its first bytes."""
    if path.name.lower() in _SYSTEM_FILES or _is_hidden(path.name):
        return "hidden or system file"
    if _is_no_file(path):
        return "is no file"
    try:
        with open(path, "rb") as file:
            start = file.read(12)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    suffix = f"suffix {quoted(path.suffix)}" if path.suffix else "no suffix"
    if start.startswith((b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")) or start[8:12] == b"WEBP":
        return f"looks like a picture but has {suffix}: rename it to use it"
    return f"no picture file ({suffix})"


def _walk(folder: Path, root: Path, others: list[tuple[str, str]]) -> Iterator[Path]:
    """Yield the picture files below a class folder, relative to ``root``; append all else to ``others``."""

    def unreadable(error: OSError) -> None:
        others.append((text_of(Path(error.filename).relative_to(root)), f"cannot be read ({error.strerror})"))

    for place, folders, files in os.walk(folder, onerror=unreadable):
        here = Path(place)
        for name in sorted(folders):
            if _is_hidden(name) or (here / name).is_symlink():
                kind = "a hidden folder" if _is_hidden(name) else "a link to a folder"
                others.append((text_of((here / name).relative_to(root)), f"{kind} is not entered"))
        folders[:] = [name for name in folders if not _is_hidden(name) and not (here / name).is_symlink()]
        for name in files:
            path = here / name
            if _is_no_file(path):
                others.append((text_of(path.relative_to(root)), "is no file"))
            elif _is_picture_name(path) and not _is_hidden(name):
                yield path.relative_to(root)
            else:
                others.append((text_of(path.relative_to(root)), _other_reason(path)))


def _split_folders(folders: list[Path], root: Path) -> dict[str, Path]:
    """Return split -> folder for those folders that are splits: so named, and holding class folders."""
    found: dict[str, Path] = {}
    named = {existing_folder(folder): split for folder in folders if (split := split_name(folder.name)) in _SPLITS}
    filled = [folder for folder in named if any(map(_has_pictures, _visible_folders(folder)))]
    # A lone train/ with pictures, beside other folders with pictures, is a class of vehicles.
    classes = len(filled) < 2 and any(_has_pictures(folder) for folder in folders if folder not in named)
    for folder, split in named.items():
        if not _visible_folders(folder) or (_has_pictures(folder) and (classes or folder not in filled)):
            continue
        if split in found:
            what = f"{found[split].name} and {folder.name} are the same split"
            raise InputError(what, where=text_of(root), mend="keep one of them")
        found[split] = folder
    return found


def _refuse_strange(root: Path, folders: list[Path]) -> None:
    """Refuse folders that hold no class folders, with one message that says what they look like instead."""
    where = text_of(root)
    layout = "make one folder a class: DATA/cat/1.jpg, DATA/dog/2.jpg; or DATA/train/cat/1.jpg, DATA/test/cat/2.jpg"
    if not folders:
        if not any(root.iterdir()):
            raise InputError("is an empty folder", where=where, mend=layout)
        what = "holds pictures but no class folders" if _has_pictures(root) else "holds no class folders"
        raise InputError(what, where=where, mend=layout)
    if all(split_name(folder.name) in _SPLITS for folder in folders):
        bare = next((folder for folder in folders if not _visible_folders(folder)), None)
        if bare is not None:
            held = "pictures but no class folders" if _has_pictures(bare) else "no class folders"
            raise InputError(f"{bare.name}/ holds {held}", where=where, mend=layout)
    nested = [folder for folder in folders if _holds_data(folder)]
    if len(nested) == len(folders):
        inner = ", ".join(text_of(folder) for folder in nested[:3])
        what = "holds another folder that holds the data" if len(nested) == 1 else "holds several data sets"
        raise InputError(what, where=where, mend=f"give {inner}" if len(nested) == 1 else f"give one of {inner}, …")


def _holds_data(folder: Path) -> bool:
    """Return whether a would-be class folder is a data set of its own: splits, several classes, or another format."""
    if _has_pictures(folder) or not _entries(folder) or not os.access(folder, os.X_OK):
        return False
    inner = _visible_folders(folder)
    if any(split_name(path.name) in _SPLITS for path in inner):
        return True
    if len(inner) > 1 and any(_has_pictures(path) for path in inner):
        return True
    return any(FORMATS.get(name).sniff(folder) for name in FORMATS.names() if name != "image_folder")


def scan(root: Path) -> Scan:
    """List the pictures of a folder by split and class; no picture is opened.

    Raises:
        InputError: no such folder, or it holds no class folders; says what it looks like instead.
    """
    existing_folder(root)
    folders = _visible_folders(root)
    splits = _split_folders(folders, root)
    if not splits:
        _refuse_strange(root, folders)
    parts = {split: splits[split] for split in _SPLITS if split in splits} or {"all": root}
    found = Scan(root)
    for part, place in parts.items():
        found.pictures[part] = {
            text_of(folder.name): sorted(_walk(folder, root, found.others), key=text_of)
            for folder in _visible_folders(place)
        }
        for entry in sorted(place.iterdir(), key=lambda p: text_of(p.name)):
            if not os.path.isdir(entry):
                found.others.append((text_of(entry.relative_to(root)), _loose_reason(entry)))
            elif _is_hidden(entry.name):
                found.others.append((text_of(entry.relative_to(root)), "a hidden folder is not entered"))
    if splits:
        for entry in sorted(root.iterdir(), key=lambda p: text_of(p.name)):
            if entry not in parts.values():
                beside = "a folder beside the splits is not entered"
                reason = beside if os.path.isdir(entry) else _loose_reason(entry)
                found.others.append((text_of(entry.relative_to(root)), reason))
    return found


def _loose_reason(path: Path) -> str:
    return "lies in no class folder" if _is_picture_name(path) else _other_reason(path)


class ImageFolder:
    """Folders of pictures; see the module."""

    def sniff(self, path: Path) -> bool:
        """Return whether a picture file lies in a folder of ``path``, at most two folders deep."""
        if not path.is_dir() or (path / "labels.csv").is_file():
            return False  # a table of labels says what its pictures are, whatever folders they lie in
        for folder in _visible_folders(path):
            if _has_pictures(folder) or any(_has_pictures(inner) for inner in _visible_folders(folder)):
                return True
        return False

    def read(self, path: Path) -> dict[str, Dataset]:
        """List the pictures; they are decoded when they are asked for.

        Raises:
            InputError: as :func:`scan`; or a class folder without pictures.
        """
        found = scan(path)
        classes = found.classes
        splits: dict[str, Dataset] = {}
        for part, by_class in found.pictures.items():
            if empty := [name for name, paths in by_class.items() if not paths]:
                raise InputError(
                    f"class folders without pictures in {part}: {', '.join(map(quoted, empty[:10]))}",
                    where=text_of(path),
                    mend="remove them, or put pictures in",
                )
            paths = [file for name in sorted(by_class) for file in by_class[name]]
            labels = [classes.index(name) for name in sorted(by_class) for _ in by_class[name]]
            ids = [text_of(file) for file in paths]
            splits[part] = FileDataset(path, paths, np.array(labels, np.int64), classes, ids)
        return splits

    def write(self, splits: Mapping[str, Dataset], path: Path) -> None:
        """Write one folder a class; pictures in memory become PNG files, files are copied as they are.

        Raises:
            InputError: ``path`` is not empty, or a class name cannot be a folder's name.
        """
        check_new_folder(path)
        for name in next(iter(splits.values())).classes:
            if fault := folder_name_fault(name):
                raise InputError(f"class {quoted(name)} cannot be a folder: {fault}", where=text_of(path))
        with whole_folder(path) as folder:
            for part in (part for part in ORDER if part in splits):
                dataset = splits[part]
                place = folder if part == "all" else folder / part
                for label in np.unique(dataset.labels).tolist():
                    (place / dataset.classes[label]).mkdir(parents=True)
                for index in range(len(dataset)):
                    sample = dataset[index]
                    stem = place / dataset.classes[sample.targets["label"]] / f"{index:06d}"
                    if isinstance(sample.picture, Path):
                        shutil.copyfile(sample.picture, stem.with_suffix(sample.picture.suffix))
                        continue
                    pixels = sample.picture[..., 0] if sample.picture.shape[2] == 1 else sample.picture
                    buffer = io.BytesIO()
                    Image.fromarray(pixels).save(buffer, "PNG")
                    stem.with_suffix(".png").write_bytes(buffer.getvalue())


FORMATS.register(
    "image_folder", ImageFolder(), __name__, title="one folder of pictures a class, with or without splits"
)
