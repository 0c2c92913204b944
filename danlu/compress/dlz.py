"""The coded file ``NAME.dlz``: a compressed network that any process rebuilds bit for bit.

Its header says how the network is made (what ``create_model`` is called with, then the edits), how pictures reach it,
its classes, its data and what was done; the tensors follow in the order of the network's ``state_dict``. The shapes are
those of the rebuilt network, so a file cannot ask for more memory than its network has.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from danlu.compress.base import Compressed, Subject
from danlu.compress.codings import Coded, decode_tensor, encode_tensor
from danlu.compress.container import Parsed, pack, parse
from danlu.compress.edits import Edit, apply_edits
from danlu.core.errors import InputError
from danlu.core.files import write_whole
from danlu.core.records import RunFolder
from danlu.core.settings import make_settings
from danlu.models import MODELS
from danlu.models.base import VisionModel
from danlu.tasks import TASKS
from danlu.tasks.classification import Classification
from danlu.tasks.preprocess import Preprocess, PreprocessSettings
from danlu.tasks.trained import Trained

__all__ = ["build_model", "open_dlz", "write_dlz"]

# A file of n bytes may stand for at most this many weights: a few bytes that ask for gigabytes are refused.
_WEIGHTS_FREE, _WEIGHTS_A_BYTE = 4_000_000, 500
_USED = ("name", "source", "hash", "classes", "seed")
# What a retraining takes from the run's own training.
_TRAIN = {"augment", "batch_size", "loss"}


def write_dlz(
    path: Path, subject: Subject, done: Compressed, method: str, settings: Mapping[str, Any]
) -> dict[str, Coded]:
    """Write a compressed network, whole or not at all.

    Args:
        path: the file.
        subject: where it comes from.
        done: what the method gave.
        method: its name.
        settings: those that differ from the method's defaults.

    Returns:
        name of a tensor -> how it is coded, in the order of the file.

    Raises:
        InputError: values that are not finite, a structure that the edits do not make, or a place that cannot be
            written.
    """
    state = _ordered(subject, done)
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"{name} holds values that are not finite", where=subject.name)
    coded = {name: encode_tensor(_array(value), done.hints.get(name), done.coder) for name, value in state.items()}
    used = {key: subject.effective["data"][key] for key in _USED if key in subject.effective["data"]}
    header = {
        "build": dict(done.build or subject.build),
        "edits": [edit.to_json() for edit in done.edits],
        "structure": _structure((name, value.shape, value.dtype) for name, value in state.items()),
        "preprocess": subject.preprocess.model_dump(mode="json"),
        "data": used,
        "task": subject.task.name,
        "label_smoothing": subject.task.label_smoothing,
        "train": subject.settings.model_dump(mode="json", include=_TRAIN, exclude_defaults=True),
        "seed": subject.effective.get("seed", 0),
        "weights": subject.weights_hash,
        "method": {"name": method, "settings": dict(settings), "seed": subject.seed},
    }
    write_whole(path, pack(header, list(coded.values())))
    return coded


def _ordered(subject: Subject, done: Compressed) -> dict[str, Tensor]:
    """Return the compressed network's tensors in the order in which a fresh one has them."""
    with torch.device("meta"):
        counts = len(subject.classes), subject.preprocess.channels
        fresh = build_model(done.build or subject.build, counts, subject.name)
        apply_edits(fresh, done.edits, subject.name)
    state = {name: value.detach().cpu() for name, value in done.model.state_dict().items()}
    expected = {name: tuple(value.shape) for name, value in fresh.state_dict().items()}
    wrong = sorted(expected.keys() ^ state.keys())
    wrong += [name for name in expected.keys() & state.keys() if expected[name] != tuple(state[name].shape)]
    if wrong:
        what = f"{', '.join(wrong[:5])}: the edits do not make the structure the compressed network has"
        raise InputError(what, where=subject.name)
    return {name: state[name] for name in expected}


def open_dlz(path: Path | str) -> Trained:
    """Open the network of a coded file.

    Raises:
        InputError: no such file, damaged, of a newer schema, or not what its header says; the message names the place.
    """
    path = Path(path)
    where = str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=where) from error
    parsed = parse(data, where)
    header = parsed.header
    settings = make_settings(PreprocessSettings, _section(header, "preprocess", where), f"{where}, preprocess")
    used, classes = _data(header, where)
    task = header.get("task")
    if not isinstance(task, str) or TASKS.check(task, where) != Classification.name:
        raise InputError(f"task {task!r} cannot be opened", where=where, allowed=[Classification.name])
    edits = _edits(header, where)
    build = _section(header, "build", where)
    model = _rebuilt(parsed, build, edits, (len(classes), settings.channels), len(data), where)
    smoothing, seed = header.get("label_smoothing", 0.0), header.get("seed", 0)
    if not isinstance(smoothing, int | float) or not 0 <= smoothing < 1 or not isinstance(seed, int):
        raise InputError("label_smoothing or seed is no number in its range", where=where)
    effective = {
        "data": used,
        "task": task,
        "model": build,
        "preprocess": header["preprocess"],
        "train": {**_section({"train": {}, **header}, "train", where), "label_smoothing": smoothing},
        "seed": seed,
    }
    config = {"schema": 1, "requested": {"method": header.get("method")}, "effective": effective}
    return Trained(
        model=model.eval(),
        preprocess=Preprocess(settings).eval(),
        task=Classification(classes, label_smoothing=float(smoothing)),
        classes=tuple(classes),
        config=config,
        run=RunFolder.of_file(path, config),
        weights_hash=hashlib.sha256(data).hexdigest(),
        model_name=build["name"],
        which="coded",
        edits=edits,
    )


def _data(header: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[str]]:
    """Return what the header says of the data, and the names of the classes."""
    used = _section(header, "data", where)
    classes = used.get("classes")
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise InputError("data.classes is no list of names", where=where)
    if len(set(classes)) < len(classes):
        raise InputError("data.classes names a class twice", where=where)
    for key in ("name", "source", "hash"):
        if not isinstance(used.get(key), str):
            raise InputError(f"data.{key} is no text", where=where)
    seed = used.get("seed")
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise InputError("data.seed is no number", where=where)
    return used, classes


def _rebuilt(
    parsed: Parsed,
    build: Mapping[str, Any],
    edits: Iterable[Edit],
    counts: tuple[int, int],
    size: int,
    where: str,
) -> VisionModel:
    """Return the network with its decoded weights; each tensor is decoded once and not copied."""
    with torch.device("meta"):
        model = build_model(build, counts, where)
        apply_edits(model, edits, where)
    expected = {name: (tuple(value.shape), value.dtype) for name, value in model.state_dict().items()}
    found = parsed.header.get("structure")
    if len(parsed.tensors) != len(expected) or found != _structure((n, *rest) for n, rest in expected.items()):
        what = f"holds {len(parsed.tensors)} tensors of another structure than {build['name']} has, which is "
        raise InputError(what + f"{len(expected)} tensors", where=where, mend="use the version that wrote it")
    weights = sum(math.prod(shape) for shape, _ in expected.values())
    if weights > _WEIGHTS_FREE + _WEIGHTS_A_BYTE * size:
        raise InputError(f"{size:,} bytes claim to be {weights:,} weights", where=where)
    state: dict[str, Tensor] = {}
    for (name, (shape, dtype)), (coding, payload, at) in zip(expected.items(), parsed.tensors, strict=True):
        place = f"{where}, {name} (from byte {at:,})"
        values = decode_tensor(coding, payload, _numpy_type(dtype), shape, place)
        if values.dtype.kind == "f" and not bool(np.isfinite(values).all()):
            raise InputError("holds values that are not finite", where=place)
        state[name] = torch.from_numpy(values)
    _assign(model, state, where)
    return model


def _assign(model: VisionModel, state: dict[str, Tensor], where: str) -> None:
    gradients = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.load_state_dict(state, assign=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(gradients[name])
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    if left:
        raise InputError(f"has no values for {', '.join(left[:5])}", where=where)


def build_model(build: Mapping[str, Any], counts: tuple[int, int], where: str) -> VisionModel:
    """Return a fresh network as ``build`` says: ``name``, ``num_classes``, ``in_channels``, and ``twin`` if it is one.

    Raises:
        InputError: an unknown name or key, or counts that disagree with the rest of the file.
    """
    name, twin = build.get("name"), build.get("twin", False)
    expected = {"num_classes": counts[0], "in_channels": counts[1]}
    unknown = sorted(build.keys() - {"name", "twin", *expected})
    if not isinstance(name, str) or not isinstance(twin, bool) or unknown:
        raise InputError(f"says its network is made by {str(dict(build))[:200]}", where=where)
    for key, count in expected.items():
        if build.get(key, count) != count:
            what = f"build.{key} = {build[key]!r} disagrees with the rest of the file"
            raise InputError(what, where=where, allowed=[count])
    variant = MODELS.get(name, where)
    return (variant.twin() if twin else variant).build(**expected)


def _structure(tensors: Iterable[tuple[str, Iterable[int], torch.dtype]]) -> int:
    """Return the CRC-32 of all names, shapes and types: files do not repeat what the network says itself."""
    text = "\n".join(f"{name} {list(shape)} {dtype}" for name, shape, dtype in tensors)
    return zlib.crc32(text.encode())


def _array(tensor: Tensor) -> NDArray[Any]:
    if tensor.dtype is torch.bool or tensor.is_complex() or tensor.dtype is torch.bfloat16:
        raise InputError(f"a tensor of {tensor.dtype} cannot be coded")
    return tensor.contiguous().numpy()


def _numpy_type(dtype: torch.dtype) -> np.dtype[Any]:
    return torch.empty(0, dtype=dtype).numpy().dtype


def _edits(header: Mapping[str, Any], where: str) -> tuple[Edit, ...]:
    listed = header.get("edits")
    if not isinstance(listed, list):
        raise InputError("has no list of edits", where=where)
    return tuple(Edit.from_json(document, where) for document in listed)


def _section(document: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    section = document.get(key)
    if not isinstance(section, dict):
        raise InputError(f"has no section {key!r}", where=where)
    return section
