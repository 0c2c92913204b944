"""Proof that two forms of one network answer alike: over every picture, and stage by stage where they do not.

A float32 form passes when no logit differs by more than ``TOLERANCE`` of the largest |logit| of the split, and no
picture changes its class, ties apart; a tie is a picture whose two largest logits lie within twice that tolerance, as
each of the two may move by it. An INT8 form passes when it loses at most the larger of 0.5 points of accuracy and two
pictures. Validation decides, the test split reports.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.core.log import progress
from danlu.core.records import RunFolder
from danlu.data.decode import change_channels, decode
from danlu.data.load import Data, opened_data
from danlu.data.loader import Loader
from danlu.deploy.artifact import is_sealed, parse_model, read_bytes
from danlu.deploy.culprit import ANSWERS
from danlu.deploy.subjects import LOGITS, ArtifactSubject, EagerSubject, Subject, open_subject, threads_of

if TYPE_CHECKING:
    from danlu.data.sample import Dataset
    from danlu.tasks.trained import Trained

__all__ = [
    "BATCH",
    "TOLERANCE",
    "compare_logits",
    "compare_resize",
    "labels_for",
    "logits_of",
    "parity",
    "sources_of",
    "telling_pictures",
]

TOLERANCE = 1e-4
BATCH = 256
# INT8 may lose this share of the accuracy, or this many pictures, whichever is more.
_MOST_LOST = 0.005
_MOST_LOST_PICTURES = 2
_STAGE_PICTURES = 64
_RESIZE_PICTURES = 200
_LEARN_PICTURES = 8
_FRONT_PICTURES = 24

Logits = NDArray[np.float32]


def logits_of(subject: Subject, loader: Loader, title: str, batch: int = BATCH) -> Logits:
    """Return logits [N, K] of all pictures of ``loader``, in its order; they need not be finite."""
    rows: list[Logits] = []
    indices = np.arange(len(loader), dtype=np.int64)
    batches = (indices[start : start + batch] for start in range(0, len(indices), batch))
    done = 0
    with progress(title, len(indices), "pictures") as advance:
        for chosen, pictures in loader.prefetch(batches):
            rows.append(subject.logits(pictures))
            done += len(chosen)
            advance(done, "")
    return np.concatenate(rows)


def labels_for(subject: Subject, dataset: Dataset) -> NDArray[np.int64]:
    """Return the labels [N] of ``dataset`` as indices into the classes of ``subject``.

    Raises:
        InputError: a class the subject does not know.
    """
    place = {name: index for index, name in enumerate(subject.classes)}
    if unknown := [name for name in dataset.classes if name not in place]:
        raise InputError(
            f"was not trained for the classes {', '.join(map(repr, unknown[:10]))}",
            where=subject.name,
            allowed=subject.classes,
            mend="give the data it was trained on",
        )
    translate = np.array([place[name] for name in dataset.classes], dtype=np.int64)
    labels = np.asarray(dataset.labels, dtype=np.int64)
    if labels.ndim == 1:
        return translate[labels]
    several = np.zeros((len(labels), len(place)), dtype=np.int64)
    several[:, translate] = labels
    return several


def compare_logits(
    a: Logits, b: Logits, labels: NDArray[np.int64], *, precision: str = "fp32", tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Compare the logits [N, K] of the reference ``a`` with those of ``b`` for labels [N].

    Args:
        a: the reference's logits.
        b: the other's, in the same order of pictures and classes.
        labels: the true classes.
        precision: of ``b``; ``fp32`` is held to the tolerance, anything else to its accuracy.
        tolerance: largest difference as a share of the largest |logit| of ``a``.

    Returns:
        ``n``, ``max_abs_logit_difference``, ``relative``, ``flips`` (pictures whose class changes, ties apart),
        ``ties`` (those that change between logits that lie within twice the tolerance: the larger may fall by it and
        the smaller rise by it, so that a flip up to there says no more than the difference already does),
        ``accuracy_a``, ``accuracy_b``, ``accuracy_difference`` and ``passed``. A difference that is not finite
        is ``None`` and does not pass.
    """
    n = len(labels)
    if a.shape != b.shape or n != len(a) or n < 1:
        raise ValueError(f"logits {a.shape} and {b.shape} for {n} labels")
    wide = a.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = float(np.abs(wide - b).max())
    scale = float(np.abs(wide).max())
    finite = bool(np.isfinite(a).all() and np.isfinite(b).all())
    relative = difference / scale if finite and scale > 0 else (0.0 if difference == 0 else None)
    changed, tied = _changed(wide, b, tolerance * scale, several=labels.ndim == 2)
    right_a, right_b = (int(_right(logits, labels).sum()) for logits in (a, b))
    flips = int((changed & ~tied).sum())
    if precision == "fp32":
        passed = finite and relative is not None and relative <= tolerance and flips == 0
    else:
        passed = finite and right_a - right_b <= max(_MOST_LOST * n, _MOST_LOST_PICTURES)
    return {
        "n": n,
        "max_abs_logit_difference": difference if finite else None,
        "relative": relative if finite else None,
        "flips": flips,
        "ties": int(tied.sum()),
        "accuracy_a": right_a / n,
        "accuracy_b": right_b / n,
        "accuracy_difference": (right_b - right_a) / n,
        "passed": passed,
    }


def _changed(
    a: NDArray[np.float64], b: Logits, tolerance: float, *, several: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which pictures [N] are answered otherwise, and which of these are ties."""
    if several:
        # Each class is decided by the sign of its logit, so that one near zero is the tie.
        moved = (a > 0) != (b > 0)
        return moved.any(axis=1), moved.any(axis=1) & (~moved | (np.abs(a) <= tolerance)).all(axis=1)
    ordered = np.sort(a, axis=1)
    # With one class there is no second logit to tie with.
    margin = ordered[:, -1] - ordered[:, -2] if a.shape[1] > 1 else np.full(len(a), np.inf)
    changed = a.argmax(axis=1) != b.argmax(axis=1)
    return changed, changed & (margin <= 2 * tolerance)


def _right(logits: Logits, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which pictures [N] are answered right; with several labels, all of them."""
    if labels.ndim == 2:
        return np.asarray(((logits > 0) == (labels == 1)).all(axis=1))
    return np.asarray(logits.argmax(axis=1) == labels)


def telling_pictures(a: Logits, b: Logits, most: int = _STAGE_PICTURES) -> NDArray[np.int64]:
    """Return up to ``most`` indices to compare stages on: the pictures that differ most, and the first ones."""
    worst = np.argsort(-np.nan_to_num(np.abs(a - b).max(axis=1), nan=np.inf), kind="stable")[: most // 2]
    chosen = np.unique(np.concatenate([worst, np.arange(min(len(a), most // 2))]))
    return chosen.astype(np.int64)


def compare_resize(artifact: ArtifactSubject, dataset: Dataset, most: int = _RESIZE_PICTURES) -> dict[str, Any] | None:
    """Feed pictures of their own size, one by one, and compare with the shared decoder's resize and crop.

    Args:
        artifact: resizes and crops in its graph.
        dataset: pictures of any size; up to ``most`` that are not of the artifact's size are taken, evenly spread.
        most: how many to compare.

    Returns:
        ``n``, ``max_probability_difference`` and ``flips``; None where every picture has the artifact's size.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(np.int64))
    fitted = Loader(dataset, artifact.size, artifact.channels, cache_bytes=0).pictures(chosen)
    count = flips = 0
    largest = 0.0
    for place, index in enumerate(chosen.tolist()):
        sample = dataset[index]
        if isinstance(sample.picture, Path):
            picture = decode(sample.picture, artifact.channels, name=sample.id)
        else:
            picture = change_channels(sample.picture, artifact.channels)
        if picture.shape[:2] == artifact.size:
            continue
        reference = artifact.probabilities(fitted[place : place + 1])[0]
        answer = artifact.probabilities(np.ascontiguousarray(picture)[None])[0]
        count += 1
        flips += int(reference.argmax() != answer.argmax())
        largest = max(largest, float(np.abs(reference - answer).max()))
    return {"n": count, "max_probability_difference": largest, "flips": flips} if count else None


def parity(
    a: Path | str | RunFolder | Trained | Subject,
    b: Path | str | RunFolder | Trained | Subject,
    data: Data | Path | str,
    *,
    threads: int | None = None,
) -> dict[str, Any]:
    """Compare two forms of a network on a data set, from the picture file to the metric.

    Args:
        a: the reference: a run folder (its path, or what training returned), an artifact, an open network, a subject.
        b: the other one, or a foreign ONNX file; held to the float32 rule unless one of the two is of lower precision.
        data: its validation split decides, its test split reports; a name or folder is split as the network's was.
        threads: of PyTorch and of the runtimes; the usable cores when not given.

    Returns:
        ``a``, ``b``, ``precision`` (which rule held), ``matched`` (``by name`` or ``by value``), ``tolerance``,
        ``validation`` and ``test`` (see :func:`compare_logits`), ``stages`` (a row for each step that was compared),
        ``finding`` (see :class:`danlu.deploy.finding.Finding`, or None), ``first_bad_stage`` and ``passed``.

    Raises:
        InputError: something that cannot be opened, two networks for different classes, or the data one of them was
            trained on, split by another seed.
    """
    threads = threads_of(None, threads)
    first = _opened(a, threads, None)
    second = _opened(b, threads, first)
    data = opened_data(data, first.split_seed if first.split_seed is not None else second.split_seed)
    if any(subject.kind == EagerSubject.kind for subject in (first, second)):
        from danlu.deploy.capture import torch_threads

        with torch_threads(threads):
            return _parity(first, second, data)
    return _parity(first, second, data)


def _opened(source: Path | str | RunFolder | Trained | Subject, threads: int, guide: Subject | None) -> Subject:
    """Open one side; a foreign file needs the other one, which came first, to be understood."""
    if isinstance(source, RunFolder):
        source = source.path
    if hasattr(source, "logits") and hasattr(source, "front"):
        return cast("Subject", source)
    coded = isinstance(source, Path | str) and Path(source).suffix.lower() in (".dlz", ".json")
    if isinstance(source, Path | str) and Path(source).is_file() and not coded:
        from danlu.deploy.foreign import ForeignSubject, is_foreign
        from danlu.deploy.hostile import load_unknown

        data = read_bytes(Path(source))
        if not is_sealed(data):
            load_unknown(Path(source))
        if is_foreign(parse_model(data, str(source))):
            if guide is None:
                mend = "give the run or the artifact first, the foreign file second"
                raise InputError("is a foreign ONNX file, and cannot be the reference", where=str(source), mend=mend)
            return ForeignSubject(data, str(source), guide, threads)
        return ArtifactSubject(data, str(source), threads)
    return open_subject(source, threads)


def _parity(first: Subject, second: Subject, data: Data) -> dict[str, Any]:
    from danlu.deploy.finding import find

    if set(first.classes) != set(second.classes):
        raise InputError(
            f"knows {len(second.classes)} classes, {first.name} knows {len(first.classes)}; they are not the same",
            where=second.name,
            allowed=first.classes,
        )
    for subject in (first, second):
        for split in ("validation", "test"):
            data.check_unseen(split, subject.name, subject.data_hash, subject.split_seed)
    if learn := getattr(second, "learn", None):
        loader = Loader(data.validation, first.size, first.channels)
        learn(loader.pictures(np.arange(min(_LEARN_PICTURES, len(data.validation)), dtype=np.int64)))
    precision = next((s.precision for s in (second, first) if s.precision != "fp32"), "fp32")
    found: dict[str, Any] = {"a": first.name, "b": second.name, "precision": precision, "tolerance": TOLERANCE}
    found["matched"] = "by value" if hasattr(second, "matches") else "by name"
    chosen = np.arange(min(len(data.validation), _STAGE_PICTURES // 2), dtype=np.int64)
    for split in ("validation", "test"):
        compared = _compare_split(first, second, data, split, precision)
        found[split] = compared[0]
        if split == "validation" and compared[1] is not None:
            chosen = compared[1]
    pictures = Loader(data.validation, first.size, first.channels).pictures(chosen)
    found["stages"], finding = find(first, second, pictures, sources_of(data.validation))
    passed = bool(found["validation"]["passed"]) and (finding is None or not finding.serious or precision != "fp32")
    if passed and finding is not None and finding.serious:
        finding = None  # of lower precision by nature, and it holds its accuracy
    found["finding"] = finding.to_record() if finding is not None else None
    found["first_bad_stage"] = None if passed else finding.stage if finding is not None else LOGITS
    found["passed"] = passed
    return found


def _compare_split(
    first: Subject, second: Subject, data: Data, split: str, precision: str
) -> tuple[dict[str, Any], NDArray[np.int64] | None]:
    """Compare all logits of a split; return the figures and the pictures that differ most."""
    dataset = data.split(split)
    labels = labels_for(first, dataset)
    order = np.array([second.classes.index(name) for name in first.classes])
    loaders = [Loader(dataset, subject.size, subject.channels) for subject in (first, second)]
    ours = logits_of(first, loaders[0], f"parity {split}, a")
    if getattr(second, "gives", LOGITS) == "probabilities" and first.task == "classification":
        # The logarithm of a softmax is the logits less a constant; that of a sigmoid's odds is the logits themselves.
        ours = np.log(np.maximum(ANSWERS[first.task](ours), 1e-30))
    try:
        theirs = logits_of(second, loaders[1], f"parity {split}, b", getattr(second, "batch", None) or BATCH)[:, order]
    except Exception as error:  # whatever the runtime raises for its graph: the steps are then looked at one by one
        if isinstance(error, InputError | MemoryError):
            raise
        return _no_answer(ours, labels, error), None
    if theirs.shape != ours.shape:
        return _no_answer(ours, labels, ValueError(f"logits {theirs.shape}, not {ours.shape}")), None
    return compare_logits(ours, theirs, labels, precision=precision), telling_pictures(ours, theirs)


def _no_answer(ours: Logits, labels: NDArray[np.int64], error: Exception) -> dict[str, Any]:
    found = compare_logits(ours, np.full_like(ours, np.nan), labels)
    return {**found, "error": " ".join(str(error).split())[:300]}


def sources_of(dataset: Dataset, most: int = _FRONT_PICTURES) -> list[Any]:
    """Return up to ``most`` picture files or pixels of a data set, evenly spread, for the first steps."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(most, len(dataset))).round().astype(np.int64))
    return [dataset[index].picture for index in chosen.tolist()]
