"""Name the classes of picture files with an artifact. Needs its runtime, numpy and pillow; never imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import CheckFailed, DanluError, InputError
from danlu.core.log import progress
from danlu.data.decode import prepare
from danlu.deploy.artifact import ArtifactInfo
from danlu.deploy.opening import open_artifact
from danlu.deploy.runtimes import Runtime

__all__ = ["predict"]

_BATCH = 32
_NAMED = 10
_TASKS = ("classification", "multilabel")


def predict(
    artifact: Path | str, pictures: Sequence[Path | str] | Path | str, *, threads: int | None = None, top: int = 3
) -> list[dict[str, Any]]:
    """Classify picture files, each decoded, resized and cropped as in training.

    Args:
        artifact: an ``.onnx`` file, a folder or ``best.json`` that ``danlu export`` wrote.
        pictures: picture files, or one; folders are not searched.
        threads: of the runtime; those ``best.json`` names, else the usable cores, when not given.
        top: how many classes to list for a picture; all where there are fewer.

    Returns:
        one row a picture, in the order given: ``{"file", "class", "probability", "top"}``; ``top`` lists
        ``{"class", "probability"}``, the most probable first. Of an artifact for several labels a picture also
        ``classes``: all with a probability above one half, which may be none.

    Raises:
        InputError: no artifact, no pictures, or pictures that cannot be read. These are all named, and nothing is
            returned for the others either, so that no answer is missing unnoticed.
        CheckFailed: the artifact gives probabilities that are not finite.
    """
    if top < 1:
        raise InputError(f"top = {top}", where="--top", allowed=["1 and more"])
    named = [pictures] if isinstance(pictures, Path | str) else pictures
    paths = [Path(picture) for picture in named]
    if not paths:
        raise InputError("no pictures are given", mend="name picture files after the artifact")
    runtime, info = open_artifact(Path(artifact), threads=threads)
    given = [str(output["name"]) for output in info.outputs]
    if info.task not in _TASKS or "probabilities" not in given:
        what = f"is for {info.task} and gives {', '.join(given)}"
        raise InputError(what, where=str(artifact), allowed=_TASKS)
    rows: list[dict[str, Any]] = []
    broken: list[InputError] = []
    with progress("predict", len(paths), "pictures") as advance:
        for start in range(0, len(paths), _BATCH):
            batch = paths[start : start + _BATCH]
            decoded = _decode(batch, info, broken)
            if not broken:
                answers = _answers(runtime, np.stack(decoded), len(info.classes), str(artifact))
                _check_finite(batch, answers, str(artifact))
                rows += [_row(path, answer, info, top) for path, answer in zip(batch, answers, strict=True)]
            advance(start + len(batch), "")
    if broken:
        raise _refusal(broken, len(paths))
    return rows


def _answers(runtime: Runtime, pictures: NDArray[np.uint8], classes: int, artifact: str) -> NDArray[np.float32]:
    mend = "export it again"
    try:
        answers = np.asarray(runtime.predict(pictures, ["probabilities"])["probabilities"])
    except (DanluError, MemoryError):
        raise
    except Exception as error:  # whatever a runtime raises for a graph that is none of ours
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"does not answer ({reason})", where=artifact, mend=mend) from error
    if answers.shape != (len(pictures), classes):
        what = f"gives {list(answers.shape)} for {len(pictures)} pictures of {classes} classes"
        raise InputError(what, where=artifact, mend=mend)
    return answers


def _decode(paths: Sequence[Path], info: ArtifactInfo, broken: list[InputError]) -> list[NDArray[np.uint8]]:
    """Return the pictures that can be read; what is wrong with the others goes into ``broken``."""
    decoded = []
    for path in paths:
        try:
            if path.is_dir():
                raise InputError("is a folder; name the pictures in it", where=str(path), mend=f"give {path / '*'}")
            if not path.exists():
                raise InputError("no such file", where=str(path))
            decoded.append(prepare(path, info.channels, info.picture_size))
        except InputError as error:
            broken.append(error)
    return decoded


def _refusal(broken: Sequence[InputError], count: int) -> InputError:
    if len(broken) == 1 and count == 1:
        return broken[0]
    shown = "".join(f"\n  {str(error).partition(chr(10))[0]}" for error in broken[:_NAMED])
    more = f"\n  … {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return InputError(
        f"{len(broken)} of {count} pictures cannot be read, so none is answered:{shown}{more}",
        mend="repair them or leave them out",
    )


def _check_finite(paths: Sequence[Path], answers: NDArray[np.float32], artifact: str) -> None:
    for path, answer in zip(paths, answers, strict=True):
        if not np.isfinite(answer).all():
            raise CheckFailed(f"{path}: {artifact} gives probabilities that are not finite; export it again")


def _row(path: Path, probabilities: NDArray[np.float32], info: ArtifactInfo, top: int) -> dict[str, Any]:
    # A stable sort: of equal probabilities the first class stands first, as argmax has it.
    best = np.argsort(-probabilities, kind="stable")[:top].tolist()
    listed = [{"class": info.classes[index], "probability": float(probabilities[index])} for index in best]
    row = {"file": str(path), **listed[0], "top": listed}
    if info.task == "multilabel":
        chosen = [index for index in np.argsort(-probabilities, kind="stable").tolist() if probabilities[index] > 0.5]
        row["classes"] = [info.classes[index] for index in chosen]
    return row
