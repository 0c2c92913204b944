"""Checkpoints that are whole or absent: a folder is written under another name, flushed, renamed, then pointed to.

``RUN/checkpoints/step-000123/`` holds ``weights.safetensors`` (what is delivered), ``optimizer.safetensors`` (what only
training needs), ``state.json`` (:class:`danlu.train.state.State`) and ``manifest.json`` with the SHA-256 of each.
``pointers.json`` names the last and the best. A kill at any moment leaves the checkpoints from before, and at most a
folder with a leading dot, which :meth:`Checkpoints.clean` removes.

Random numbers need no state: order and augmentation are hashes of (seed, epoch, sample), and torch's generators are
seeded from (seed, step) before each step.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from danlu.core import files
from danlu.core.errors import InputError
from danlu.core.log import logger
from danlu.core.records import SCHEMA, check_schema
from danlu.models.weights import read_verified
from danlu.train.state import State, checkpoint_name

__all__ = ["Checkpoint", "Checkpoints"]

_NAME = re.compile(r"step-\d{6,}")
_WEIGHTS, _OPTIMIZER, _STATE, _MANIFEST = "weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, read and verified."""

    name: str
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: State


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: ``RUN/checkpoints``.
        keep: how many of the last stay, beside the best one each of them knows.
        selects: whether an epoch is selected by validation; where none is, the last one is what is delivered as best.
    """

    def __init__(self, folder: Path, keep: int, *, selects: bool = True) -> None:
        self.folder, self.keep, self.selects = folder, keep, selects

    def names(self) -> list[str]:
        """Return the names of all checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted((p.name for p in self.folder.iterdir() if p.is_dir() and _NAME.fullmatch(p.name)), key=_step_of)

    def check_space(self, size: int) -> None:
        """Refuse to start a run whose checkpoints of ``size`` bytes each would not fit on the disk."""
        files.check_space(self.folder, (self.keep + 2) * size)

    def save(self, state: State, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Write the checkpoint of ``state.step``, point to it, and drop those no longer kept.

        Raises:
            InputError: no space, or the folder cannot be written; all checkpoints from before are still there.
        """
        name = checkpoint_name(state.step)
        contents = {
            _WEIGHTS: _tensor_bytes(weights),
            _OPTIMIZER: _tensor_bytes(optimizer),
            _STATE: _json_bytes(state.to_json()),
        }
        contents[_MANIFEST] = _json_bytes(
            {
                "schema": SCHEMA,
                "step": state.step,
                "epoch": state.epoch,
                "files": {file: files.sha256_bytes(data) for file, data in contents.items()},
            }
        )
        # Asked before anything is touched: a disk filled to its last byte also stops the log and the other runs.
        files.check_space(self.folder, sum(map(len, contents.values())) + 2**16)
        with files.whole_folder(self.folder / name) as temporary:
            for file, data in contents.items():
                (temporary / file).write_bytes(data)
        self._point(name, state)
        self._prune()

    def _point(self, last: str, state: State) -> None:
        best = checkpoint_name(state.best.step) if state.best else None if self.selects else last
        files.write_json(self.folder / "pointers.json", {"schema": SCHEMA, "best": best, "last": last})

    def _prune(self) -> None:
        names = self.names()
        kept = set(names[-self.keep :])
        # A kept checkpoint may be the one a resume falls back to, and then its own best must still be there.
        for name in sorted(kept):
            with contextlib.suppress(InputError):
                best = self._read_state(name).best
                kept |= {checkpoint_name(best.step)} if best else set()
        for name in names:
            if name not in kept:
                self.drop(name)

    def drop(self, name: str) -> None:
        """Delete a checkpoint; renamed first, so that it never stands there half deleted."""
        gone = self.folder / f".{name}.{os.getpid()}.gone"
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(self.folder / name, gone)
        shutil.rmtree(gone, ignore_errors=True)

    def clean(self) -> None:
        """Remove what a killed process left: half-written files, folders half deleted. Call it under the run's lock."""
        for path in sorted(self.folder.glob(".*")):
            match = re.fullmatch(rf"\.({_NAME.pattern})\.\d+\.old", path.name)
            if match and not (self.folder / match[1]).exists():
                # Killed between the two renames of a replacement: the old checkpoint is whole and goes back.
                os.replace(path, self.folder / match[1])
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.endswith(".part"):
                path.unlink(missing_ok=True)

    def load(self, name: str) -> Checkpoint:
        """Read one checkpoint: ``last``, ``best`` or a name.

        Raises:
            InputError: there is no such one, or a file of it is missing, truncated or changed; the message names it.
        """
        if name in ("last", "best"):
            pointers = files.read_json(self.folder / "pointers.json")
            pointed = check_schema(pointers, str(self.folder / "pointers.json")).get(name)
            if not isinstance(pointed, str):
                raise InputError(f"has no {name} checkpoint yet", where=str(self.folder), allowed=self.names())
            name = pointed
        if name not in self.names():
            raise InputError(
                f"has no checkpoint {name!r}", where=str(self.folder), allowed=["auto", "last", "best", *self.names()]
            )
        state = self._read_state(name)
        if checkpoint_name(state.step) != name:
            raise InputError(f"holds step {state.step}, not what its name says", where=str(self.folder / name))
        return Checkpoint(
            name=name,
            weights=read_verified(self.folder / name, _WEIGHTS),
            optimizer=read_verified(self.folder / name, _OPTIMIZER),
            state=state,
        )

    def _read_state(self, name: str) -> State:
        path = self.folder / name / _STATE
        manifest_path = self.folder / name / _MANIFEST
        manifest = check_schema(files.read_json(manifest_path), str(manifest_path))
        listed = manifest.get("files")
        if not isinstance(listed, dict) or not path.is_file() or files.sha256_file(path) != listed.get(_STATE):
            raise InputError(
                "is missing, or was changed or damaged after it was written",
                where=str(path),
                mend="use another checkpoint of this run, or a copy",
            )
        state = State.from_json(check_schema(files.read_json(path), str(path)), str(path))
        if (manifest.get("step"), manifest.get("epoch")) != (state.step, state.epoch):
            raise InputError("disagrees with the state it lies beside", where=str(manifest_path))
        return state

    def newest_good(self) -> Checkpoint | None:
        """Return the newest checkpoint that is undamaged; None where there is none at all.

        Damaged newer ones are named in a warning and put aside as ``damaged-<step>``.

        Raises:
            InputError: there are checkpoints, and all are damaged; none is put aside.
        """
        problems: list[tuple[str, InputError]] = []
        for name in reversed(self.names()):
            try:
                checkpoint = self.load(name)
            except InputError as error:
                problems.append((name, error))
                continue
            for damaged, reason in problems:
                logger.warning("checkpoint %s is damaged, going back to %s: %s", damaged, name, reason)
                self._put_aside(damaged)
            return checkpoint
        if problems:
            raise InputError(
                f"all {len(problems)} checkpoints are damaged; the newest: {problems[0][1]}",
                where=str(self.folder),
                mend="restore them from a copy, or train a new run",
            )
        return None

    def _put_aside(self, name: str) -> None:
        aside = self.folder / name.replace("step-", "damaged-")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(self.folder / name, aside)

    def go_back_to(self, checkpoint: Checkpoint) -> None:
        """Make ``checkpoint`` the last: drop newer ones, whose log lines will be written anew, and point to it."""
        for name in self.names():
            if _step_of(name) > checkpoint.state.step:
                self.drop(name)
        self._point(checkpoint.name, checkpoint.state)


def _step_of(name: str) -> int:
    return int(name.removeprefix("step-"))


def _tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    # Written in the plain order B, C, H, W whatever the order in memory, so that every reader sees the same.
    plain = {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}
    data: bytes = safetensors.torch.save(plain)
    return data


def _json_bytes(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
