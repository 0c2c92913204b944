"""Where two forms of a network part, and why: the first step that differs, from the file to the probabilities.

The steps are decode, colour order, resize, crop, normalise, each named stage of the network, logits, post-processing
and batch. The values decide whether and where; the cause is what explains them: what the runtime really executed, the
layer whose weights or settings differ, or what was done to the values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.deploy.culprit import ANSWERS, input_cause, logits_cause, probabilities_cause, stage_cause
from danlu.deploy.foreign import ForeignSubject
from danlu.deploy.front import compare_fronts
from danlu.deploy.graph_diff import differences, layers_between
from danlu.deploy.subjects import LOGITS, ArtifactSubject, Subject

__all__ = ["Finding", "find"]

Floats = NDArray[np.float32]
_INPUT = "preprocess"
_BATCHES = (1, 2, 4, 8, 16)
_AGREES = 1e-3
# A quantised or rounded stage may be off by this share of its root mean square.
_COARSE = 0.3
_PROBABILITY = 1e-3
_RUNTIME_ERRORS: tuple[type[Exception], ...] = (InputError, RuntimeError, ValueError, TypeError, IndexError)


@dataclass(frozen=True)
class Finding:
    """The first step that differs.

    Attributes:
        stage: the step or the stage of the network.
        max_abs: the largest difference there, None where shapes differ or values are not finite.
        relative: the same as a share of the largest value of the reference.
        cause: the likely cause; empty where nothing explains it.
        layer: the layer that differs, where graphs could be compared.
        serious: whether the answers are wrong by it; a fixed batch that is declared is no more than a note.
    """

    stage: str
    max_abs: float | None
    relative: float | None
    cause: str
    layer: str = ""
    serious: bool = True

    def to_record(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


class _InParts:
    """A subject that is asked ``size`` pictures at a time."""

    def __init__(self, subject: Subject, size: int) -> None:
        self._subject, self._size = subject, size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._subject, name)

    def _parts(self, pictures: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        whole = len(pictures) - len(pictures) % self._size
        return [pictures[start : start + self._size] for start in range(0, max(whole, 1), self._size)]

    def logits(self, pictures: NDArray[np.uint8]) -> Floats:
        return np.concatenate([self._subject.logits(part) for part in self._parts(pictures)])

    def probabilities(self, pictures: NDArray[np.uint8]) -> Floats:
        return np.concatenate([self._subject.probabilities(part) for part in self._parts(pictures)])

    def stages(self, pictures: NDArray[np.uint8]) -> dict[str, Floats]:
        parts = [self._subject.stages(part) for part in self._parts(pictures)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def find(
    a: Subject,
    b: Subject,
    pictures: NDArray[np.uint8],
    sources: Sequence[Any] = (),
    *,
    tolerance: float = 1e-4,
) -> tuple[list[dict[str, Any]], Finding | None]:
    """Compare step by step.

    Args:
        a: the reference.
        b: the other one, of the same classes.
        pictures: uint8 [B, h, w, C] of the size of both, for the network.
        sources: files, bytes or pixels [H, W, C] of any size, for the steps before it.
        tolerance: of a stage, as a share of its largest value in ``a``.

    Returns:
        a row ``{"stage", "max_abs", "relative"}`` for each step that was compared, and the first that differs.
    """
    if (a.size, a.channels) != (b.size, b.channels):
        told = f"pictures of {list(b.size)} and {b.channels} channels, not {list(a.size)} and {a.channels}"
        return [], Finding("resize" if a.size != b.size else "colour order", None, None, told)
    rows, found = _fronts(a, b, sources)
    if found is not None:
        return rows, found
    pictures = pictures[: 32 if len(pictures) >= 32 else 16 if len(pictures) >= 16 else len(pictures)]
    batch, asked, pictures = _batches(a, b, pictures)
    steps: Sequence[Callable[[], tuple[list[dict[str, Any]], Finding | None]]] = (
        lambda: _network(a, asked, pictures, tolerance),
        lambda: _answers(a, asked, pictures),
    )
    for step in steps:
        try:
            more, found = step()
        except _RUNTIME_ERRORS + _session_errors() as error:
            return rows, batch or Finding("batch", None, None, f"it fails: {_short(error)}")
        rows += more
        if found is not None:
            if batch is not None and (not found.cause or found.cause.startswith("the weights")):
                found = replace(found, cause=f"{found.cause + '; ' if found.cause else ''}{batch.cause}")
            return rows, found
    return rows, batch


def _session_errors() -> tuple[type[Exception], ...]:
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException

    return (Fail, InvalidArgument, RuntimeException)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _row(stage: str, a: Floats, b: Floats) -> dict[str, Any]:
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return {"stage": stage, "max_abs": None, "relative": None}
    difference, scale = float(np.abs(a - b).max()), float(np.abs(a).max())
    relative = difference / scale if scale else (0.0 if difference == 0 else None)
    return {"stage": stage, "max_abs": difference, "relative": relative}


def _fronts(a: Subject, b: Subject, sources: Sequence[Any]) -> tuple[list[dict[str, Any]], Finding | None]:
    if a.front is b.front or not len(sources):
        return [], None
    rows = []
    for row in compare_fronts(a.front, b.front, sources):
        relative = None if row.levels is None else row.levels / 255
        rows.append({"stage": row.step, "max_abs": row.levels, "relative": relative})
        if not row.within:
            return rows, Finding(row.step, row.levels, relative, row.cause)
    return rows, None


def _batches(a: Subject, b: Subject, pictures: NDArray[np.uint8]) -> tuple[Finding | None, Any, NDArray[np.uint8]]:
    """Find out whether answers depend on the batch; return what to say of it, and how to ask from now on."""
    declared = getattr(b, "batch", None)
    note = None
    if declared is not None:
        note = Finding("batch", None, None, f"fixed batch: it takes {declared} pictures at once", serious=False)
        return note, b, pictures
    right: dict[int, bool] = {}
    reference = a.logits(pictures)
    for size in [n for n in _BATCHES if n <= len(pictures)]:
        try:
            answer, again = b.logits(pictures[:size]), b.logits(pictures[:1]) if size > 1 else None
        except _RUNTIME_ERRORS + _session_errors():
            right[size] = False
            continue
        steady = again is None or _near(answer[:1], again)
        right[size] = steady and answer.shape == reference[:size].shape
    good = [size for size, ok in right.items() if ok]
    if len(good) == len(right):
        return None, b, pictures
    for size in right:
        try:
            if _near(reference[:size], b.logits(pictures[:size])):
                finding = Finding("batch", None, None, f"fixed batch: it is right for {size} pictures at once only")
                return finding, _InParts(b, size), pictures[: len(pictures) - len(pictures) % size]
        except _RUNTIME_ERRORS + _session_errors():
            continue
    cause = "answers depend on the other pictures of the batch (train-mode batch normalisation, or a fixed batch)"
    return Finding("batch", None, None, cause), _InParts(b, 1), pictures


def _near(a: Floats, b: Floats) -> bool:
    row = _row("", a, b)
    return row["relative"] is not None and row["relative"] < _AGREES


def _network(a: Subject, b: Any, pictures: NDArray[np.uint8], tolerance: float) -> tuple[list[Any], Finding | None]:
    ours, theirs = a.stages(pictures), b.stages(pictures)
    if LOGITS in ours and list(a.classes) != list(b.classes) and set(a.classes) == set(b.classes):
        order = [list(b.classes).index(name) for name in a.classes]
        reordered = theirs[LOGITS][:, order]
        if not _near(ours[LOGITS], reordered) and _near(ours[LOGITS], theirs[LOGITS]):
            cause = f"label order: the names are in another order than the logits ({', '.join(b.classes[:5])}…)"
            return [], Finding("post-processing", None, None, cause)
        theirs = {**theirs, LOGITS: reordered}
    rows = [_row(stage, ours[stage], theirs[stage]) for stage in ours if stage in theirs]
    coarse = b.precision != "fp32" or a.precision != "fp32"
    bad = [
        (_rms(ours[row["stage"]], theirs[row["stage"]]) > _COARSE)
        if coarse
        else row["relative"] is None or row["relative"] > tolerance
        for row in rows
    ]
    if isinstance(_plain(b), ForeignSubject):
        if _plain(b).expects:
            stage = "colour order" if "BGR" in _plain(b).expects else "normalise"
            shown = [{**row, "stage": _step(row["stage"])} for row in rows]
            return shown, Finding(stage, None, None, f"it expects {_plain(b).expects}")
        # What is not seen, though something behind it is right, was folded into a neighbour.
        right = max((place for place, wrong in enumerate(bad) if not wrong), default=-1)
        bad = [wrong and place > right for place, wrong in enumerate(bad)]
    shown = [{**row, "stage": _step(row["stage"])} for row in rows]
    if not any(bad):
        return shown, None
    return shown, _explained(a, b, ours, theirs, rows, bad.index(True))


def _plain(subject: Any) -> Any:
    return subject._subject if isinstance(subject, _InParts) else subject


def _rms(a: Floats, b: Floats) -> float:
    if a.shape != b.shape or not np.isfinite(b).all():
        return float("inf")
    scale = float(np.sqrt(np.mean(np.square(a, dtype=np.float64))))
    return float(np.sqrt(np.mean(np.square(a - b, dtype=np.float64)))) / max(scale, 1e-12)


def _explained(
    a: Subject, b: Any, ours: dict[str, Floats], theirs: dict[str, Floats], rows: list[dict[str, Any]], first: int
) -> Finding:
    row = rows[first]
    stage, wanted, given = row["stage"], ours[row["stage"]], theirs[row["stage"]]
    size = (row["max_abs"], row["relative"])
    executed = b.executed()
    if b.precision == "fp32" and executed is not None and executed not in ("fp32", "no layers"):
        return Finding(
            _step(stage), *size, f"silent {executed.split()[0]}: the runtime computes in {executed}, not fp32"
        )
    if stage == _INPUT:
        step, cause = input_cause(wanted, given)
        return Finding(step, *size, cause)
    if stage == LOGITS and (cause := logits_cause(wanted, given, a.task) or ""):
        step = "post-processing" if cause.startswith("label order") else stage
        return Finding(step, *size, cause)
    before = rows[first - 1]["stage"] if first else None
    layer, told = _graph_cause(a, _plain(b), before, stage)
    return Finding(stage, *size, told or stage_cause(wanted, given) or "", layer)


def _step(stage: str) -> str:
    return "normalise" if stage == _INPUT else stage


def _graph_cause(a: Subject, b: Any, before: str | None, stage: str) -> tuple[str, str]:
    """Compare the layers between the last stage that agrees and the first that does not, where both have graphs."""
    theirs = b.graph()
    if theirs is None:
        return "", ""
    folded = not any(node.op_type == "BatchNormalization" for node in theirs.graph.node)
    ours = a.graph(folded=folded)
    if ours is None:
        return "", ""
    parts = [_between(a, ours, before, stage), _between(b, theirs, before, stage)]
    return next(differences(*parts), ("", ""))


def _between(subject: Any, graph: Any, before: str | None, stage: str) -> list[Any]:
    if isinstance(subject, ForeignSubject):
        names = {name: match.tensor for name, match in subject.matches.items()}
        if names.get(stage) == names.get(before or ""):
            names[stage] = graph.graph.output[0].name
    elif isinstance(subject, ArtifactSubject):
        names = {**subject.info.stages, LOGITS: LOGITS}
    else:
        names = {stage: f"stage.{stage}", before or "": f"stage.{before}", LOGITS: LOGITS}
    return layers_between(graph, [names[before]] if before in names else [], names[stage])


def _answers(a: Subject, b: Any, pictures: NDArray[np.uint8]) -> tuple[list[Any], Finding | None]:
    """Compare the probabilities with those that the reference's logits make in its task."""
    logits = a.logits(pictures)
    plain = _plain(b)
    given = b.probabilities(pictures)
    if set(a.classes) == set(b.classes) and given.shape == logits.shape:
        given = given[:, [list(b.classes).index(name) for name in a.classes]]
    row = _row("post-processing", ANSWERS[a.task](logits), given)
    if isinstance(plain, ForeignSubject) and plain.gives == LOGITS and "prob" in plain.output_name.lower():
        return [row], Finding("post-processing", None, None, f"the {ANSWERS[a.task].__name__} is missing")
    coarse = b.precision != "fp32" or a.precision != "fp32"
    if row["relative"] is None or row["relative"] > (_COARSE if coarse else _PROBABILITY):
        cause = probabilities_cause(logits, given, a.task)
        return [row], Finding("post-processing", row["max_abs"], row["relative"], cause)
    return [row], None
