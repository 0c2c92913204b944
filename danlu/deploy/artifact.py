"""What an artifact says about itself: the ``danlu.*`` metadata of its one ONNX file. Torch-free.

Each key holds JSON. ``danlu.schema`` is read first: an artifact of a newer schema is refused. The file is
self-contained; one that refers to data outside itself is refused, wherever that data lies.

``danlu.digest`` is the SHA-256 of the whole file with zeros in the digest's own place. It is found and checked in the
bytes alone, before anything parses them, so that a file that changed after its export never answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.errors import InputError

if TYPE_CHECKING:
    import onnx

__all__ = ["INPUT", "SCHEMA", "ArtifactInfo", "is_sealed", "parse_model", "read_artifact", "read_bytes", "sealed"]

SCHEMA = 1
INPUT = "pictures"
_PREFIX = "danlu."
_DIGEST = _PREFIX + "digest"
_NO_DIGEST = "0" * 64
# How protobuf writes the entry: field 1 with the key, field 2 with 64 digits in quotes. No JSON text holds a bare line
# feed, so no class name can look like this.
_DIGEST_BEGINS = b"\n" + bytes([len(_DIGEST)]) + _DIGEST.encode() + b'\x12\x42"'
# Protobuf ends at 2 GiB; a larger file cannot be one ONNX file.
_MOST_BYTES = 2**31 - 1
_MEND = "give the .onnx file that `danlu export` wrote"


@dataclass(frozen=True)
class ArtifactInfo:
    """What an artifact is, as its metadata holds it.

    Attributes:
        task: what kind of answer it gives, e.g. ``classification``.
        model: the registered name of the network.
        precision: ``fp32`` or ``int8``.
        classes: class names in the order of the logits.
        picture_size: (height, width) other pictures are resized and cropped to.
        channels: of the pictures fed, 1 or 3.
        outputs: per output ``{"name", "shape", "meaning"}``.
        stages: stage -> name of its tensor in the graph, in the order the tensor passes them.
        hashes: ``data``, ``weights`` and, for a quantised artifact, ``calibration``: SHA-256.
        parity: what was proved before it was written; see :mod:`danlu.deploy.parity`.
        version: of the danlu that wrote it.
        split: ``seed`` of the split of the data it was trained on, and whether the test split was given
            (``test_given``); None where an older version wrote the artifact.
        opset: of the ONNX operators, or None where an older version wrote the artifact.
        licence: of the ``weights`` and of the ``data`` they were trained on, as far as either is known.
        golden: pictures with the answers it gave when it was proved; see :mod:`danlu.deploy.card`.
        schema: of this metadata.
    """

    task: str
    model: str
    precision: str
    classes: tuple[str, ...]
    picture_size: tuple[int, int]
    channels: int
    outputs: tuple[dict[str, Any], ...]
    stages: dict[str, str]
    hashes: dict[str, str]
    parity: dict[str, Any] = field(default_factory=dict)
    version: str = ""
    split: dict[str, Any] | None = None
    opset: int | None = None
    licence: dict[str, Any] | None = None
    golden: dict[str, Any] | None = None
    schema: int = SCHEMA

    def to_metadata(self) -> dict[str, str]:
        """Return the metadata entries, sorted by key, values as JSON."""
        values: dict[str, Any] = {
            "schema": self.schema,
            "task": self.task,
            "model": self.model,
            "precision": self.precision,
            "labels": list(self.classes),
            "picture_size": list(self.picture_size),
            "channels": self.channels,
            "outputs": list(self.outputs),
            "stages": self.stages,
            "hashes": self.hashes,
            "parity": self.parity,
            "version": self.version,
        }
        later = {"split": self.split, "opset": self.opset, "licence": self.licence, "golden": self.golden}
        values |= {key: value for key, value in later.items() if value is not None}
        return {
            _PREFIX + key: json.dumps(values[key], ensure_ascii=False, allow_nan=False, separators=(",", ":"))
            for key in sorted(values)
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str) -> ArtifactInfo:
        """Read the metadata of an ONNX file.

        Raises:
            InputError: entries are missing, are no JSON or have another type, or the schema is newer.
        """
        if _PREFIX + "schema" not in metadata:
            what = "is an ONNX file, but no artifact of this tool: it has no danlu.schema"
            raise InputError(what, where=where, mend=_MEND)
        schema = _entry(metadata, "schema", int, where)
        if schema > SCHEMA:
            mend = "use a newer version of danlu"
            raise InputError(f"artifact schema {schema} is newer than {SCHEMA}", where=where, mend=mend)
        size = _entry(metadata, "picture_size", list, where)
        classes = _entry(metadata, "labels", list, where)
        outputs = _entry(metadata, "outputs", list, where)
        stages = _entry(metadata, "stages", dict, where)
        hashes = _entry(metadata, "hashes", dict, where)
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise _bad(where, "picture_size", "two positive integers")
        if not classes or not all(isinstance(name, str) for name in classes) or len(set(classes)) < len(classes):
            raise _bad(where, "labels", "different class names")
        if not all(isinstance(output, dict) and isinstance(output.get("name"), str) for output in outputs):
            raise _bad(where, "outputs", "a list of outputs with names")
        if not all(isinstance(text, str) for text in [*stages.values(), *hashes.values()]):
            raise _bad(where, "stages and hashes", "texts by name")
        if (channels := _entry(metadata, "channels", int, where)) not in (1, 3):
            raise _bad(where, "channels", "1 or 3")
        return cls(
            task=_entry(metadata, "task", str, where),
            model=_entry(metadata, "model", str, where),
            precision=_entry(metadata, "precision", str, where),
            classes=tuple(classes),
            picture_size=(size[0], size[1]),
            channels=channels,
            outputs=tuple(outputs),
            stages=stages,
            hashes=hashes,
            parity=_entry(metadata, "parity", dict, where),
            version=_entry(metadata, "version", str, where),
            split=_split(metadata, where),
            opset=_entry(metadata, "opset", int, where) if _PREFIX + "opset" in metadata else None,
            licence=_entry(metadata, "licence", dict, where) if _PREFIX + "licence" in metadata else None,
            golden=_entry(metadata, "golden", dict, where) if _PREFIX + "golden" in metadata else None,
            schema=schema,
        )


def _bad(where: str, key: str, wanted: str) -> InputError:
    return InputError(f"metadata danlu.{key} is not {wanted}", where=where, mend="export it again")


def _entry(metadata: Mapping[str, str], key: str, kind: type, where: str) -> Any:
    try:
        value = json.loads(metadata[_PREFIX + key])
    except KeyError:
        raise InputError(f"metadata has no danlu.{key}", where=where, mend="export it again") from None
    except (json.JSONDecodeError, RecursionError):
        raise InputError(f"metadata danlu.{key} is not JSON", where=where, mend="export it again") from None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _bad(where, key, {int: "an integer", str: "a text", list: "a list", dict: "an object"}[kind])
    return value


def _split(metadata: Mapping[str, str], where: str) -> dict[str, Any] | None:
    if _PREFIX + "split" not in metadata:
        return None
    split: dict[str, Any] = _entry(metadata, "split", dict, where)
    seed, given = split.get("seed"), split.get("test_given")
    if not isinstance(seed, int) or isinstance(seed, bool) or not isinstance(given, bool):
        raise _bad(where, "split", "a seed and whether the test split was given")
    if not isinstance(split.get("trained_on", "train"), str):
        raise _bad(where, "split", "a seed and what was trained on")
    return split


def sealed(model: onnx.ModelProto) -> bytes:
    """Return ``model`` as the bytes of a file that says whether it has changed since; ``model`` stays as it is."""
    import onnx

    marked = onnx.ModelProto()
    marked.CopyFrom(model)
    kept = [entry for entry in marked.metadata_props if entry.key != _DIGEST]
    del marked.metadata_props[:]
    marked.metadata_props.extend(kept)
    marked.metadata_props.add(key=_DIGEST, value=json.dumps(_NO_DIGEST))
    data = bytes(marked.SerializeToString(deterministic=True))
    begin = data.rindex(_DIGEST_BEGINS) + len(_DIGEST_BEGINS)
    return data[:begin] + _digest(data, begin) + data[begin + len(_NO_DIGEST) :]


def _digest(data: bytes, begin: int) -> bytes:
    """Return the digest, in hexadecimal digits, of ``data`` with zeros where its own digest begins."""
    view = memoryview(data)
    found = hashlib.sha256(view[:begin])
    found.update(_NO_DIGEST.encode())
    found.update(view[begin + len(_NO_DIGEST) :])
    return found.hexdigest().encode()


def is_sealed(data: bytes) -> bool:
    """Return whether bytes that :func:`read_bytes` gave carry a digest, as all that this tool exports does."""
    return data.rfind(_DIGEST_BEGINS) >= 0


def _check_digest(data: bytes, where: str, sealed_only: bool) -> None:
    """Refuse bytes that are not those exported; files without a digest are of an older version or of somebody else."""
    place = data.rfind(_DIGEST_BEGINS)
    if place < 0:
        if sealed_only:
            raise InputError("is no artifact of this tool: it has no digest", where=where, mend=_MEND)
        return
    begin = place + len(_DIGEST_BEGINS)
    if data[begin : begin + len(_NO_DIGEST)] != _digest(data, begin):
        mend = "copy it again from where it was exported, or export it again"
        raise InputError("the file has changed since it was exported: its digest is another", where=where, mend=mend)


def read_bytes(path: Path, *, sealed_only: bool = False) -> bytes:
    """Return the bytes of an artifact's file, after checking that they are those exported.

    Args:
        path: the file.
        sealed_only: refuse a file without a digest, so that nothing parses what no export has written.

    Raises:
        InputError: no such file, a folder, empty, too large to be one ONNX file, not readable, or changed since it was
            exported. A file without a digest (an older artifact, or no artifact at all) is not checked.
    """
    where = str(path)
    if path.is_dir():
        inside = path / "model.onnx"
        mend = f"give {inside}" if inside.is_file() else "export it first: danlu export RUN"
        raise InputError("is a folder, an .onnx file is needed", where=where, mend=mend)
    try:
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise InputError(f"has {size:,} bytes; one ONNX file has at most {_MOST_BYTES:,}", where=where, mend=_MEND)
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", where=where, mend=_MEND) from None
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=where) from error
    if not data:
        raise InputError("is empty (0 bytes)", where=where, mend=_MEND)
    _check_digest(data, where, sealed_only)
    return data


def parse_model(data: bytes, where: str) -> onnx.ModelProto:
    """Parse and check the bytes of one self-contained ONNX file.

    Raises:
        InputError: no ONNX, no graph, a graph ONNX's own checker refuses, or tensors stored outside the file.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise InputError("is no ONNX file", where=where, mend=_MEND) from None
    # Any bytes that happen to be fields nobody knows parse as an empty model.
    if not model.graph.node or not model.graph.input or not model.graph.output:
        raise InputError("holds no graph", where=where, mend=_MEND)
    if outside := sorted(_stored_outside(model.graph)):
        what = f"tensors are stored outside the file: {', '.join(outside[:5])}"
        raise InputError(what, where=where, mend="an artifact is one file; export it again")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"is no valid ONNX graph ({reason})", where=where, mend=_MEND) from None
    return model


def _stored_outside(graph: onnx.GraphProto) -> Iterable[str]:
    import onnx

    tensors = [*graph.initializer]
    for sparse in graph.sparse_initializer:
        tensors += [sparse.values, sparse.indices]
    for node in graph.node:
        for attribute in node.attribute:
            tensors += [*attribute.tensors, *([attribute.t] if attribute.HasField("t") else [])]
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from _stored_outside(inner)
    for tensor in tensors:
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor.name


def read_artifact(path: Path) -> ArtifactInfo:
    """Read what an artifact says about itself, after checking that it is one self-contained ONNX graph.

    Raises:
        InputError: see :func:`read_bytes`, :func:`parse_model` and :meth:`ArtifactInfo.from_metadata`; or a graph whose
            input and outputs are not what the metadata says.
    """
    where = str(path)
    model = parse_model(read_bytes(path), where)
    info = ArtifactInfo.from_metadata({entry.key: entry.value for entry in model.metadata_props}, where)
    inputs, outputs = [value.name for value in model.graph.input], [value.name for value in model.graph.output]
    named = [output["name"] for output in info.outputs]
    if inputs != [INPUT] or outputs != named:
        what = f"the graph maps {inputs} to {outputs}, its metadata says [{INPUT!r}] to {named}"
        raise InputError(what, where=where, mend="export it again")
    return info
