"""An artifact that is a folder: ``artifact.json`` and the files of a runtime that has no single file. Torch-free.

``artifact.json`` holds the schema, the runtime, the SHA-256 of every other file, the metadata of the ONNX form
(:class:`~danlu.deploy.artifact.ArtifactInfo`), and ``outside``: what the runtime cannot hold, which one shared function
does instead. Nothing in the folder is imported or executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core import files
from danlu.core.errors import InputError
from danlu.data.decode import fit
from danlu.deploy.artifact import ArtifactInfo

__all__ = ["FITTING", "MANIFEST", "Folder", "fit_outside", "read_folder", "write_folder"]

MANIFEST = "artifact.json"
FITTING = "fitting"
SCHEMA = 1
_MEND = "give the folder that `danlu export --to` wrote"
_MOST_BYTES = 16 * 2**30


@dataclass(frozen=True)
class Folder:
    """An artifact's folder that was read and checked.

    Attributes:
        path: where it lies.
        runtime: the name of the runtime it is for.
        metadata: the entries of the ONNX form, values as JSON.
        info: the same, understood.
        outside: steps done outside the graph: ``fitting``, ``layout``.
        tensors: name of an output or stage -> what the runtime calls it.
        settings: what else the runtime was told, e.g. its precision.
    """

    path: Path
    runtime: str
    metadata: dict[str, str]
    info: ArtifactInfo
    outside: tuple[str, ...]
    tensors: dict[str, str]
    settings: dict[str, Any]


def fit_outside(pictures: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring uint8 pictures [B, H, W, C] to [B, h, w, C] as the graph of an ONNX artifact does inside."""
    if pictures.shape[1:3] == size:
        return np.ascontiguousarray(pictures)
    return np.stack([fit(picture, size) for picture in pictures])


def write_folder(
    path: Path,
    runtime: str,
    contents: Mapping[str, bytes],
    info: ArtifactInfo,
    *,
    outside: Sequence[str] = (),
    tensors: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Write the files into the existing folder ``path``, the manifest last: without it, the folder is no artifact."""
    for name, data in contents.items():
        target = path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_whole(target, data)
    files.write_json(
        path / MANIFEST,
        {
            "schema": SCHEMA,
            "runtime": runtime,
            "files": {name: files.sha256_bytes(data) for name, data in sorted(contents.items())},
            "outside": list(outside),
            "tensors": dict(tensors or {}),
            "settings": dict(settings or {}),
            "metadata": {key: json.loads(value) for key, value in info.to_metadata().items()},
        },
    )


def read_folder(path: Path, runtime: str | None = None) -> Folder:
    """Read an artifact's folder and check every file it names.

    Raises:
        InputError: no such folder, no manifest, a newer schema, a file that is missing, lies outside, is a link, has
        more
            than one name or has changed; another runtime than ``runtime``.
    """
    where = str(path)
    if not path.is_dir():
        raise InputError("no such folder", where=where, mend=_MEND)
    if not (path / MANIFEST).is_file():
        raise InputError(f"has no {MANIFEST}, so it is no artifact", where=where, mend=_MEND)
    document = files.read_json(path / MANIFEST)
    if not isinstance(document, dict) or not isinstance(schema := document.get("schema"), int):
        raise InputError(f"{MANIFEST} has no schema", where=where, mend=_MEND)
    if schema > SCHEMA:
        raise InputError(f"artifact schema {schema} is newer than {SCHEMA}", where=where, mend="use a newer danlu")
    found = _strings(document, "files", where)
    for name, digest in found.items():
        _check_file(path, name, digest, where)
    if runtime is not None and document.get("runtime") != runtime:
        what = f"is for the runtime {document.get('runtime')!r}"
        raise InputError(what, where=where, allowed=[runtime])
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        raise InputError(f"{MANIFEST} has no metadata", where=where, mend="export it again")
    texts = {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    outside, settings = document.get("outside"), document.get("settings")
    if not isinstance(outside, list) or not isinstance(settings, dict):
        raise InputError(f"{MANIFEST} lacks `outside` or `settings`", where=where, mend="export it again")
    return Folder(
        path=path,
        runtime=str(document.get("runtime")),
        metadata=texts,
        info=ArtifactInfo.from_metadata(texts, where),
        outside=tuple(map(str, outside)),
        tensors=_strings(document, "tensors", where),
        settings=settings,
    )


def _strings(document: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    value = document.get(key)
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InputError(f"{MANIFEST} has no texts by name in {key!r}", where=where, mend="export it again")
    return value


def _check_file(folder: Path, name: str, digest: str, where: str) -> None:
    """Refuse a file that is not the one exported, or that is reached from elsewhere."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute() or "\\" in name or ":" in name:
        raise InputError(f"names the file {name!r}, which lies outside", where=where, mend=_MEND)
    path = folder.joinpath(*parts)
    if path.is_symlink() or not path.is_file():
        raise InputError(f"the file {name} is missing or a link", where=where, mend="copy the whole folder again")
    state = path.stat()
    if state.st_nlink > 1:
        what = f"the file {name} has {state.st_nlink} names (hard links)"
        raise InputError(what, where=where, mend="copy the folder; a copy has one name")
    if state.st_size > _MOST_BYTES or files.sha256_file(path) != digest:
        mend = "copy it again from where it was exported, or export it again"
        raise InputError(f"the file {name} has changed since it was exported", where=where, mend=mend)
