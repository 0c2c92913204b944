"""The run folder and its records: the chain of custody from data to report.

A run folder holds ``config.json`` (settings requested and effective), ``log.jsonl`` (append-only), ``checkpoints/``,
``record.json`` (data hash, versions, environment, results), ``pictures/`` (PNG files the report shows) and
``report.html``. Every JSON file carries ``schema``; a newer schema is refused, an older one migrated.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.core import files
from danlu.core.errors import InputError

__all__ = [
    "SCHEMA",
    "RunFolder",
    "check_free",
    "check_outside",
    "check_schema",
    "new_run_folder",
    "open_run_folder",
    "result",
]

SCHEMA = 1


def result(value: float, n: int, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """Return one measured figure as records hold it: value, interval and number of samples."""
    return {"value": value, "low": low, "high": high, "n": n}


def check_schema(document: Any, where: str) -> dict[str, Any]:
    """Return a record's document if this version can read it.

    Raises:
        InputError: no object, no ``schema``, or written by a newer version.
    """
    if not isinstance(document, dict) or not isinstance(document.get("schema"), int):
        raise InputError("is no record of this tool: it has no integer 'schema'", where=where)
    if document["schema"] > SCHEMA:
        raise InputError(
            f"schema {document['schema']} is newer than {SCHEMA}", where=where, mend="use a newer version of danlu"
        )
    return document


class RunFolder:
    """Paths and records of one run. Open with :func:`new_run_folder` or :func:`open_run_folder`.

    Attributes:
        path: the folder.
        file: the coded file, where a network is one file instead of a folder (see :meth:`of_file`).
        artifact_path: where an export goes.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path = Path(path)
        self.file: Path | None = None
        self.artifact_path = path / "model.onnx"
        self.config_path = path / "config.json"
        self.log_path = path / "log.jsonl"
        self.record_path = path / "record.json"
        self.report_path = path / "report.html"
        self.checkpoints = path / "checkpoints"
        self.pictures = path / "pictures"
        self._config: dict[str, Any] | None = None

    @classmethod
    def of_file(cls, file: Path, config: dict[str, Any]) -> RunFolder:
        """Return the records of a network that is one file ``NAME.dlz``: ``NAME.json`` beside it, and nothing else.

        Args:
            file: the coded file.
            config: what a run folder has in ``config.json``; the file itself holds it.
        """
        folder = cls(file.parent)
        folder.file, folder._config = file, config
        folder.record_path, folder.artifact_path = file.with_suffix(".json"), file.with_suffix(".onnx")
        return folder

    @property
    def name(self) -> str:
        """What messages call it: the folder, or the file."""
        return str(self.file or self.path)

    def read_config(self) -> dict[str, Any]:
        """Return ``config.json``: ``{"schema", "requested": {…}, "effective": {…}, …}``.

        Raises:
            InputError: it is damaged, of a newer schema, or lacks one of the two sections.
        """
        if self._config is not None:
            return self._config
        where = str(self.config_path)
        config = check_schema(files.read_json(self.config_path), where)
        for section in ("requested", "effective"):
            if not isinstance(config.get(section), dict):
                raise InputError(f"has no section {section!r}", where=where, mend="give a folder of `danlu train`")
        return config

    def read_record(self) -> dict[str, Any]:
        """Return ``record.json``, or a bare ``{"schema": 1}`` where nothing was recorded yet."""
        if not self.record_path.exists():
            return {"schema": SCHEMA}
        return check_schema(files.read_json(self.record_path), str(self.record_path))

    def update_record(self, **sections: Any) -> dict[str, Any]:
        """Replace the named top-level sections of ``record.json`` and write it whole; return the new record."""
        record = {**self.read_record(), **sections}
        files.write_json(self.record_path, record)
        return record

    def keep_only(self, *sections: str) -> list[str]:
        """Drop all other top-level sections of ``record.json``; return the names of those that were dropped."""
        record = self.read_record()
        dropped = [name for name in record if name not in ("schema", *sections)]
        if dropped:
            files.write_json(self.record_path, {name: record[name] for name in record if name not in dropped})
        return dropped

    def append_log(self, **entry: Any) -> None:
        """Append one line to ``log.jsonl``."""
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False) + "\n"
        with open(self.log_path, "ab") as file:
            file.write(line.encode("utf-8"))

    def log_length(self) -> int:
        """Return the log's length in bytes; a checkpoint stores it."""
        return self.log_path.stat().st_size if self.log_path.exists() else 0

    def truncate_log(self, length: int) -> None:
        """Cut the log back to ``length`` bytes, as resume does to what was written after the checkpoint."""
        if self.log_length() > length:
            os.truncate(self.log_path, length)

    def read_log(self) -> list[dict[str, Any]]:
        """Return the log's entries; a last line cut short by a kill is left out.

        Raises:
            InputError: a line is damaged.
        """
        if not self.log_path.exists():
            return []
        entries = []
        for number, line in enumerate(self.log_path.read_bytes().split(b"\n")[:-1], start=1):
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                raise InputError(
                    "is no entry of a log", where=f"{self.log_path}, line {number}", mend="remove the line"
                )
            entries.append(entry)
        return entries

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder's lock, so that two runs never share it."""
        with files.lock(self.path, "run"):
            yield


def check_free(out: Path | None) -> None:
    """Refuse an ``--out`` that holds something or cannot be written, before work begins.

    Raises:
        InputError: it does.
    """
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        # A run killed before its first step has no config yet: there is nothing to resume.
        begun = RunFolder(out).config_path.is_file()
        mend = "give another --out, or " + (f"resume it: danlu resume {out}" if begun else "delete it")
        raise InputError("exists and is not empty", where=str(out), mend=mend)
    files.check_writable(Path("runs") if out is None else out)


def check_outside(out: Path | str | None, source: Path | str) -> None:
    """Refuse to write into the folder the data comes from, where results would be read as pictures from then on.

    Args:
        out: as given; ``./runs`` stands for None.
        source: the data's name or folder.

    Raises:
        InputError: ``out`` is the folder, or lies in it.
    """
    folder, target = Path(source).resolve(), Path("runs" if out is None else out).resolve()
    if folder.is_dir() and folder in (target, *target.parents):
        what = f"lies in the folder of the data, {source}: it would be read as data the next time"
        raise InputError(what, where=f"--out {target}", mend="give an --out elsewhere")


def new_run_folder(out: Path | str | None, data_name: str, model_name: str) -> RunFolder:
    """Create a fresh run folder: ``out``, or ``./runs/<data>-<model>-<n>`` with the first free ``n``.

    Raises:
        InputError: ``out`` exists and is not empty, or cannot be written.
    """
    check_free(None if out is None else Path(out))
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        return RunFolder(out)
    parent = Path("runs")
    parent.mkdir(exist_ok=True)
    stem = f"{files.slug(data_name)}-{files.slug(model_name)}"
    number = 1
    while True:
        path = parent / f"{stem}-{number}"
        try:
            path.mkdir()
            return RunFolder(path)
        except FileExistsError:
            number += 1


def open_run_folder(path: Path | str) -> RunFolder:
    """Open an existing run folder.

    Raises:
        InputError: no such folder, or no ``config.json`` in it.
    """
    folder = RunFolder(path)
    if not folder.config_path.is_file():
        runs = sorted(str(p.parent) for p in Path("runs").glob("*/config.json")) if Path("runs").is_dir() else []
        raise InputError(
            "is no run folder: it holds no config.json",
            where=str(path),
            allowed=runs or None,
            mend="give the folder that `danlu train` or `danlu run` printed",
        )
    return folder
