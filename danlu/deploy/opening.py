"""Open an artifact in the runtime it is for: an ``.onnx`` file, a folder, or the choice of ``danlu export --best``.

Torch-free, and each runtime is imported only where an artifact needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from danlu.core.environment import usable_cores
from danlu.core.errors import InputError

if TYPE_CHECKING:
    from danlu.deploy.artifact import ArtifactInfo
    from danlu.deploy.runtimes import Runtime

__all__ = ["CHOICE", "Choice", "is_artifact", "open_artifact", "open_choice", "read_choice", "runtime_of"]

CHOICE = "best.json"
SCHEMA = 1
_MANIFEST = "artifact.json"
# What a choice may tell the loader of a runtime.
_OPTIONS: dict[str, dict[str, type]] = {"onnxruntime": {"spin": bool}, "openvino": {"precision": str}}


@dataclass(frozen=True)
class Choice:
    """An artifact with the settings it was the fastest with.

    Attributes:
        artifact: the file or folder.
        runtime: what executes it.
        threads: of one answer.
        options: what else the runtime is told when it loads it.
    """

    artifact: Path
    runtime: str
    threads: int
    options: dict[str, Any] = field(default_factory=dict)


def is_artifact(path: Path) -> bool:
    """Return whether ``path`` is, or is called like, an artifact; all else should be a run."""
    suffix = path.suffix.lower()
    # A coded file is opened as a run is.
    return (path.is_file() and suffix != ".dlz") or suffix in (".onnx", ".json") or (path / _MANIFEST).is_file()


def open_artifact(path: Path, *, threads: int | None = None) -> tuple[Runtime, ArtifactInfo]:
    """Load an artifact; ``threads`` are those of the choice, else the usable cores, when not given.

    Raises:
        InputError: no artifact, a runtime that is not installed, or a choice that is damaged or points elsewhere.
    """
    from danlu.deploy.artifact import ArtifactInfo

    if path.name.endswith(".json"):
        choice = read_choice(path)
        return open_choice(choice, min(choice.threads, usable_cores()) if threads is None else threads)
    runtime = _load(path, runtime_of(path), usable_cores() if threads is None else threads, {})
    return runtime, ArtifactInfo.from_metadata(runtime.metadata, str(path))


def open_choice(choice: Choice, threads: int) -> tuple[Runtime, ArtifactInfo]:
    """Load the artifact of a choice with its options."""
    from danlu.deploy.artifact import ArtifactInfo

    runtime = _load(choice.artifact, choice.runtime, threads, choice.options)
    return runtime, ArtifactInfo.from_metadata(runtime.metadata, str(choice.artifact))


def read_choice(path: Path) -> Choice:
    """Read what ``danlu export --best`` wrote.

    Raises:
        InputError: no such file, no choice, a newer schema, or an artifact that does not lie beside it.
    """
    from danlu.core.files import read_json

    where, mend = str(path), "write it again: danlu export RUN --best"
    if not path.is_file():
        raise InputError("no such file", where=where, mend=mend)
    document = read_json(path)
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise InputError("is no choice of an artifact: it has no schema", where=where, mend=mend)
    if schema > SCHEMA:
        raise InputError(f"schema {schema} is newer than {SCHEMA}", where=where, mend="use a newer version of danlu")
    name, runtime = document.get("artifact"), document.get("runtime")
    threads, options = document.get("threads"), document.get("options")
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name or "\\" in name or ":" in name:
        raise InputError(f"artifact {name!r} does not lie beside it", where=where, mend=mend)
    if runtime not in _OPTIONS:
        raise InputError(f"runtime {runtime!r}", where=where, allowed=_OPTIONS)
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= 4096:
        raise InputError(f"threads = {threads!r}", where=where, allowed=["1 and more"])
    known = _OPTIONS[runtime]
    if not isinstance(options, dict) or any(not isinstance(v, known.get(k, tuple)) for k, v in options.items()):
        raise InputError(f"options {options!r}", where=where, allowed=known)
    return Choice(path.parent / name, runtime, threads, options)


def runtime_of(path: Path) -> str:
    """Return the name of the runtime an artifact is for, which need not be installed."""
    if path.name.endswith(".json"):
        return read_choice(path).runtime
    if (path / _MANIFEST).is_file():
        from danlu.deploy.folder import read_folder

        return read_folder(path).runtime
    return "onnxruntime"


def _load(path: Path, name: str, threads: int, options: dict[str, Any]) -> Runtime:
    if name == "onnxruntime":  # without the registry, whose index need not be read
        from danlu.deploy.artifact import is_sealed, read_bytes
        from danlu.deploy.runtimes.onnxruntime import OnnxRuntime

        data = read_bytes(path)
        if not is_sealed(data):
            from danlu.deploy.hostile import load_unknown

            load_unknown(path)
        return OnnxRuntime.load(data, threads=threads, where=str(path), **options)
    from danlu.deploy.runtimes import RUNTIMES

    loader: Any = RUNTIMES.get(RUNTIMES.check(name, str(path)))
    opened: Runtime = loader.load(path, threads=threads, **options)
    return opened
