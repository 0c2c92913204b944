"""Weights from files nobody has to trust: the content decides what a file is, no code runs, damage is named.

Two formats are read: safetensors, and PyTorch's own files with ``weights_only``, so that a pickle which wants to call
anything is refused. Checkpoints of runs are safetensors and carry a manifest with the SHA-256 of each file, because
both formats load a file with a flipped byte silently.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from danlu.core.errors import InputError
from danlu.core.files import read_json, sha256_bytes, write_whole
from danlu.core.log import logger
from danlu.core.records import RunFolder, check_schema
from danlu.models.base import VisionModel, WeightMapping

__all__ = [
    "checkpoint_folder",
    "load_state",
    "load_weights",
    "named_for",
    "read_verified",
    "read_weights",
    "save_weights",
]

_SHOWN = 10
# Under these versions a crafted file runs code even with weights_only (CVE-2025-32434, CVE-2026-24747).
_SAFE_TORCH = (2, 10)
_HEADER_LIMIT = 100_000_000
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a safetensors or PyTorch file, to the CPU.

    A dictionary that wraps the weights as ``state_dict`` or ``model`` is unwrapped and the ``module.`` of data parallel
    training dropped; the log says so.

    Args:
        path: the file; its content, not its suffix, says what it is.

    Raises:
        InputError: no such file, a format that is not read, a pickle that wants more than tensors, a damaged file, no
            flat dictionary of tensors, or values that are not finite.
    """
    data = _read_bytes(path)
    kind = _sniff(data)
    if kind == "safetensors":
        weights: Any = _parse_safetensors(data, path)
    elif kind == "pytorch":
        if path.suffix == ".safetensors":
            raise InputError(
                "is a pickle that calls itself safetensors",
                where=str(path),
                mend="do not use this file; ask its author",
            )
        weights = _load_pickle(path)
    else:
        raise InputError(
            f"is {kind}, not a file of weights",
            where=str(path),
            allowed=["safetensors", "a state dict saved by torch.save"],
            mend="save model.state_dict() with safetensors",
        )
    state = _flat(weights, path)
    _refuse_non_finite(state, path)
    return state


def read_verified(folder: Path, name: str = "weights.safetensors") -> dict[str, Tensor]:
    """Read one safetensors file of a checkpoint folder after comparing it with the folder's manifest.

    Args:
        folder: holds ``manifest.json`` and the file.
        name: the file's name.

    Raises:
        InputError: no manifest, a file it does not list, another SHA-256 than it lists, a damaged file, or values that
            are not finite; the message names file or tensor.
    """
    path, manifest_path = folder / name, folder / "manifest.json"
    files = check_schema(read_json(manifest_path), str(manifest_path)).get("files")
    expected = files.get(name) if isinstance(files, dict) else None
    if not isinstance(expected, str):
        raise InputError(f"does not list {name!r}", where=str(manifest_path))
    data = _read_bytes(path)
    if (found := sha256_bytes(data)) != expected:
        raise InputError(
            f"was changed or damaged after it was written: its SHA-256 is {found[:16]}…, the manifest says "
            f"{expected[:16]}…",
            where=str(path),
            mend="use another checkpoint of this run, or a copy",
        )
    weights = _parse_safetensors(data, path)
    _refuse_non_finite(weights, path)
    return weights


def checkpoint_folder(run: RunFolder, which: str = "best") -> Path:
    """Return the folder of a run's checkpoint.

    Args:
        run: the run.
        which: ``best``, ``last``, or the name of one (``step-000123``).

    Raises:
        InputError: no checkpoint yet, or no such one.
    """
    there = sorted(p.name for p in run.checkpoints.glob("step-*") if p.is_dir())
    pointers_path = run.checkpoints / "pointers.json"
    if not there or not pointers_path.is_file():
        raise InputError("has no checkpoint yet", where=str(run.path), mend="train it: danlu resume RUN")
    pointers = check_schema(read_json(pointers_path), str(pointers_path))
    name = pointers.get(which) if which in ("best", "last") else which
    # The name comes from a file or a command line: it must not lead out of the folder.
    if not isinstance(name, str) or not re.fullmatch(r"step-\d+", name) or name not in there:
        shown = which if name == which else f"{which} ({name!r})"
        raise InputError(f"has no checkpoint {shown}", where=str(run.checkpoints), allowed=["best", "last", *there])
    return run.checkpoints / name


def load_weights(model: nn.Module, path: Path, mapping: WeightMapping | None = None) -> None:
    """Load a file of weights into ``model``; every name and shape has to agree.

    A file with the names of the reference implementation is renamed; the log says so.

    Args:
        model: receives the weights; unchanged when an error is raised.
        path: see :func:`read_weights`.
        mapping: the renaming to try when the file's names are not the model's; its own when not given.

    Raises:
        InputError: what :func:`read_weights` and :func:`load_state` refuse.
    """
    load_state(model, named_for(model, path, mapping), where=str(path))


def named_for(model: nn.Module, path: Path, mapping: WeightMapping | None = None) -> dict[str, Tensor]:
    """Read a file of weights; names of the reference implementation become those of ``model``, and the log says so.

    Args:
        model: whose names are wanted.
        path: see :func:`read_weights`.
        mapping: the renaming to try when the file's names are not the model's; its own when not given.

    Raises:
        InputError: what :func:`read_weights` refuses.
    """
    weights = read_weights(path)
    mapping = mapping or getattr(model, "mapping", None)
    own = model.state_dict()
    if mapping is not None and not weights.keys() & own.keys():
        renamed = mapping.from_reference(weights, own)
        if renamed.keys() & own.keys():
            logger.info("%s: names of %s, renamed", path, mapping.reference)
            return renamed
    return weights


def save_weights(model: VisionModel, path: Path, *, reference: bool = False) -> None:
    """Write the weights of ``model`` as safetensors, whole or not at all.

    Args:
        model: a network of :func:`danlu.models.create_model`.
        path: the file to write.
        reference: under the names of the independent implementation the network is compared with, so that it can load
            them; under ours otherwise.

    Raises:
        InputError: the network has no such implementation, or the file cannot be written.
    """
    weights = model.state_dict()
    if reference:
        if model.mapping is None:
            raise InputError(f"{type(model).__name__} has no reference implementation", mend="leave reference out")
        weights = model.mapping.to_reference(weights)
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    write_whole(path, safetensors.torch.save(plain))


def load_state(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Copy ``weights`` into ``model``; every name and shape has to agree.

    Args:
        model: receives the weights; unchanged when an error is raised.
        weights: name -> tensor.
        where: what to call their source in an error.

    Raises:
        InputError: names or shapes differ; at most ten of them are listed, with a hint.
    """
    own = model.state_dict()
    missing = [f"missing {name} {list(own[name].shape)}" for name in own if name not in weights]
    unexpected = [f"unexpected {name} {list(weights[name].shape)}" for name in sorted(weights) if name not in own]
    shapes = [
        f"shape of {name} is {list(weights[name].shape)}, the model has {list(own[name].shape)}"
        for name in own
        if name in weights and own[name].shape != weights[name].shape
    ]
    differences = [*shapes, *missing, *unexpected]
    if differences:
        rest = f"; … and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise InputError(
            f"does not fit {type(model).__name__}: " + "; ".join(differences[:_SHOWN]) + rest,
            where=where,
            mend=_hint(own, weights, bool(missing or unexpected)),
        )
    model.load_state_dict(dict(weights))


def _hint(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], names_differ: bool) -> str:
    if not own.keys() & weights.keys():
        return "the file is of another architecture or another implementation: give its --model"
    if names_differ:
        return "the file is of another architecture or variant: give the --model it was made with"
    first, last = next(iter(own)), [name for name in own if own[name].dim() > 1][-1]
    differing = [name for name in own if own[name].shape != weights[name].shape]
    if first in differing and own[first].dim() > 1:
        return f"the file is for pictures of {weights[first].shape[1]} channels: build it with that in_channels"
    if last in differing:
        count = weights[last].shape[0]
        return f"the file is for {count} classes: build it with num_classes={count}, load, then reset_head"
    return "the file is of another variant: give the --model it was made with"


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", where=str(path)) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=str(path)) from error


def _sniff(data: bytes) -> str:
    """Return ``safetensors``, ``pytorch``, or words for what the file is instead."""
    if not data:
        return "an empty file"
    if data[:4] == b"PK\x03\x04":
        return _sniff_zip(data)
    if data[:6] == b"\x93NUMPY":
        return "a NumPy array"
    if len(data) > 8 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") <= _HEADER_LIMIT:
        return "safetensors"
    if data[257:262] == b"ustar":
        return "a tar archive"
    if data[:1] == b"\x80":
        return "pytorch"
    if data[:9].lstrip()[:1] in (b"<", b"{"):
        return "a text file"
    return "of a format that is not known"


def _sniff_zip(data: bytes) -> str:
    import io

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return "a truncated or damaged archive"
    names = [entry.filename for entry in entries]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        return "TorchScript, which is a program"
    if not any(name.endswith("/data.pkl") for name in names):
        return "an archive that torch.save did not write"
    # torch.save stores without compression; a packed entry could unfold to any size.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "an archive with compressed entries, which torch.save does not write"
    return "pytorch"


def _parse_safetensors(data: bytes, path: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        what = f"is truncated, damaged or no safetensors file ({error})"
        raise InputError(what, where=str(path), mend="use another checkpoint, or copy the file again") from error
    return weights


def _load_pickle(path: Path) -> Any:
    found = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if found < _SAFE_TORCH:
        raise InputError(
            f"torch {torch.__version__} cannot read pickled weights safely",
            where=str(path),
            mend="pip install torch>=2.10",
        )
    try:
        with warnings.catch_warnings():
            # Of formats it may not support: what it cannot read is refused below, in words of our own.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch advises to load it without the check; nobody is to read that as a way out.
        wanted = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"wants more than tensors and is refused: it asks for {wanted[1] if wanted else 'what no weights need'}",
            where=str(path),
            mend="use a file that holds the state dict only, best as safetensors",
        ) from error
    except Exception as error:  # the unpickler reports damage by whatever its C++ and Python layers raise
        first = re.split(r"[\n.] ", str(error).replace("\n", ". "))[0][:200]
        first = type(error).__name__ if "weights_only" in first else first
        raise InputError(f"is truncated or damaged ({first})", where=str(path), mend="get the file again") from error


def _flat(weights: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(weights, Mapping):
        for key in _WRAPPERS:
            if isinstance(weights.get(key), Mapping):
                logger.info("%s: the weights stand under %r", path, key)
                weights = weights[key]
                break
    if not isinstance(weights, Mapping) or not weights:
        raise InputError("holds no dictionary of tensors", where=str(path), mend="save model.state_dict()")
    wrong = [
        str(name)
        for name, value in weights.items()
        if not isinstance(name, str)
        or not isinstance(value, Tensor)
        or value.layout != torch.strided
        or value.device.type != "cpu"
        or value.is_quantized
    ]
    if wrong:
        shown = ", ".join(repr(name) for name in wrong[:_SHOWN])
        raise InputError(f"holds {len(wrong)} entries that are no plain tensors: {shown}", where=str(path))
    if all(name.startswith("module.") for name in weights):
        logger.info("%s: dropped the prefix 'module.'", path)
        return {name.removeprefix("module."): value for name, value in weights.items()}
    return dict(weights)


def _refuse_non_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    wrong = [
        name
        for name, value in weights.items()
        if (value.is_floating_point() or value.is_complex()) and not bool(torch.isfinite(value).all())
    ]
    if wrong:
        shown = ", ".join(wrong[:_SHOWN]) + (f", … ({len(wrong) - _SHOWN} more)" if len(wrong) > _SHOWN else "")
        raise InputError(
            f"holds values that are not finite, in {shown}", where=str(path), mend="use an earlier checkpoint"
        )
