"""The fastest artifact that holds its accuracy: every runtime, precision and number of threads that is at hand.

Each form is exported and proved as any other export. What loses more than ``max_drop`` points on validation is out. The
rest is measured, shortly first, then the quickest in turn with eager PyTorch as the yardstick, and the one with the
lowest median is taken: a choice by measurement on this machine, which another machine may decide otherwise.
"""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from danlu.core import files
from danlu.core.environment import processor_name, usable_cores
from danlu.core.errors import CheckFailed, InputError
from danlu.core.log import logger, progress
from danlu.deploy.benchmark import measure_in_turn, measuring, pictures_of, row_of
from danlu.deploy.contenders import Contender, runtime_contender
from danlu.deploy.machine import Watch, load_average
from danlu.deploy.opening import CHOICE, SCHEMA, Choice, open_choice
from danlu.deploy.rounds import ratio
from danlu.tasks.trained import Trained, open_trained

if TYPE_CHECKING:
    from danlu.data.load import Data

__all__ = ["MAX_DROP", "best", "check_options"]

MAX_DROP = 0.3
# Export itself delivers nothing that loses more.
_MOST_DROP = 0.5
_SECONDS = 12.0
_REPEATS = 30
_QUICK_CALLS = 2
# Who is slower than this many times the quickest after two calls has lost; a neighbour's load doubles a call at most.
_OUT_OF_SIGHT = 2.5
# The others get so many calls more, in turn; who is slower than this many times the quickest then has lost too.
_QUICK_ROUNDS = 4
_FAR_BEHIND = 1.3
_FINALISTS = 4

Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class _Form:
    """An exported form: what it is called, where it lies, what it loses, and why it is out, if it is."""

    name: str
    runtime: str
    path: Path | None
    drop: float | None
    reason: str | None


@dataclass
class _Entry:
    """A form with its settings, and what was measured of it."""

    form: _Form
    choice: Choice
    quick_s: float = float("inf")
    contender: Contender | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def best(
    run: Path | str | Trained,
    data: Data,
    *,
    max_drop: float = MAX_DROP,
    batch: int = 32,
    threads: int | None = None,
    out: Path | None = None,
    seconds: float = _SECONDS,
    yardstick: bool = True,
) -> dict[str, Any]:
    """Export a run in every form that is at hand and choose the fastest that holds its accuracy.

    Args:
        run: a run folder, or the network of one that is already open.
        data: the data it was trained on; validation decides.
        max_drop: points of accuracy an artifact may lose on validation, from 0 to 0.5.
        batch: pictures in one call; 1 is the single stream.
        threads: only so many; one, two, four … and all usable cores are tried when not given.
        out: a folder for a copy of the chosen artifact and ``best.json``; the run folder when not given.
        seconds: about how long the last measurement takes; longer where eager PyTorch is slow.
        yardstick: whether to measure eager PyTorch as well.

    Returns:
        what ``best.json`` and the record's section ``best`` hold: the chosen ``artifact``, ``runtime``, ``precision``
        executed, ``threads``, ``options``; ``tried``, one row for each form and setting with its drop, its times and
        why it was not taken; ``ratios``, how many times as fast the choice is as the others that were measured last.

    Raises:
        InputError: a bad option, no such run, or other data than it was trained on.
        CheckFailed: float32 is out of tolerance.
    """
    check_options(max_drop, batch, out)
    trained = run if isinstance(run, Trained) else open_trained(run)
    forms = _forms(trained, data, threads, max_drop)
    load, watch = load_average(), Watch()
    counts = [threads] if threads else _thread_counts()
    entries = [entry for form in forms if form.path and not form.reason for entry in _entries(form, counts)]
    pictures = pictures_of(data, min(batch, 64), trained.preprocess.settings.picture_size, data.picture.channels)
    pictures = pictures[np.arange(batch) % len(pictures)]
    finalists = _quickest(entries, pictures)
    eager = _eager(trained, counts[-1]) if yardstick else []
    contenders = [entry.contender for entry in finalists if entry.contender] + eager
    with measuring(bool(eager), counts[-1]):
        measure_in_turn(contenders, pictures, seconds, _REPEATS)
    chosen = min(finalists, key=lambda entry: _median_ms(entry, batch))
    document = _document(chosen, finalists, eager, batch, max_drop)
    document["tried"] = _rows(forms, entries, chosen, batch)
    document["machine"] = {"processor": processor_name(), "cores": usable_cores(), "load": load}
    document["machine"]["other_cores"] = watch.check(counts[-1])
    _write(trained, chosen, document, out)
    logger.info("export: the best is %s with %d threads", chosen.form.name, chosen.choice.threads)
    return document


def check_options(max_drop: float = MAX_DROP, batch: int = 1, out: Path | None = None) -> None:
    """Refuse options before anything is exported.

    Raises:
        InputError: a drop or a batch that is not allowed, or a place that is no folder.
    """
    if not 0 <= max_drop <= _MOST_DROP:
        raise InputError(f"max_drop = {max_drop:g}", where="--max-drop", allowed=[f"0 to {_MOST_DROP:g} points"])
    if not 1 <= batch <= 4096:
        raise InputError(f"batch = {batch}", where="--batch", allowed=["1 to 4,096"])
    if out is not None and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("is no empty folder", where=str(out), mend="give a new folder for --out")


def _thread_counts() -> list[int]:
    cores = usable_cores()
    return sorted({count for count in (1, 2, 4, 8, 16, 32, 64) if count < cores} | {cores})


def _forms(trained: Trained, data: Data, threads: int | None, max_drop: float) -> list[_Form]:
    """Export all that this installation can, each with its proof."""
    from danlu.deploy.export import export
    from danlu.deploy.targets import export_to

    record = export(trained, data, threads=threads)
    forms = [_form(trained, record, name, "onnxruntime", max_drop) for name in ("fp32", "int8")]
    if importlib.util.find_spec("openvino") is None:
        reason = "openvino is not installed: pip install 'danlu[openvino]'"
        return [*forms, _Form("openvino", "openvino", None, None, reason)]
    for precision in ("fp32", "bf16", "int8"):
        name = "openvino" if precision == "fp32" else f"openvino {precision}"
        try:
            record = export_to(trained, data, "openvino", precision=precision, threads=threads)
        except (CheckFailed, InputError) as error:
            forms.append(_Form(name, "openvino", None, None, str(error).partition("\n")[0]))
            continue
        forms.append(_form(trained, record, name, "openvino", max_drop))
    return forms


def _form(trained: Trained, record: dict[str, Any], name: str, runtime: str, max_drop: float) -> _Form:
    """Return what the record says of an artifact that was exported, and whether it holds its accuracy."""
    facts, proof = record["artifacts"][name], record["parity"][name]
    shown = f"onnxruntime {name}" if runtime == "onnxruntime" else "openvino fp32" if name == "openvino" else name
    difference = (proof.get("validation") or {}).get("accuracy_difference")
    drop = None if difference is None else max(0.0, -100 * difference)
    if not facts.get("file"):
        return _Form(shown, runtime, None, drop, str(proof.get("reason")).partition("\n")[0])
    # Half a unit in the last place of a float must not decide.
    lost = drop is not None and drop > max_drop + 1e-9
    reason = f"loses {drop:.2f} points, {max_drop:g} are allowed" if lost else None
    return _Form(shown, runtime, trained.run.path / facts["file"], drop, reason)


def _entries(form: _Form, counts: Sequence[int]) -> list[_Entry]:
    assert form.path is not None
    settings: list[tuple[int, dict[str, Any]]] = [(count, {}) for count in counts]
    if form.runtime == "onnxruntime":
        settings += [(count, {"spin": True}) for count in counts if count > 1]
    return [_Entry(form, Choice(form.path, form.runtime, count, options)) for count, options in settings]


def _quickest(entries: Sequence[_Entry], pictures: Pictures) -> list[_Entry]:
    """Time every entry shortly; return the quickest of each runtime and those that are not far behind the first."""
    with progress("export: trying", len(entries), "settings") as advance:
        for place, entry in enumerate(entries):
            contender = _open(entry)
            contender.answer(pictures)
            entry.quick_s = min(_seconds(contender, pictures) for _ in range(_QUICK_CALLS))
            entry.facts = {"precision": contender.precision, "executed": contender.executed}
            advance(place + 1, entry.form.name)
    near = _near(entries, _OUT_OF_SIGHT)
    for entry in near:
        entry.contender = _open(entry)
        entry.contender.answer(pictures)
    # Two calls one after the other share one moment of the machine: the choice is not made on that.
    for _ in range(_QUICK_ROUNDS):
        for entry in near:
            assert entry.contender is not None
            entry.quick_s = min(entry.quick_s, _seconds(entry.contender, pictures))
    finalists = _near(near, _FAR_BEHIND)[:_FINALISTS]
    for runtime in {entry.form.runtime for entry in entries}:
        first = min((e for e in entries if e.form.runtime == runtime), key=lambda e: e.quick_s)
        if first not in finalists:
            finalists.append(first)
    for entry in entries:
        entry.contender = (entry.contender or _open(entry)) if entry in finalists else None
    return finalists


def _near(entries: Sequence[_Entry], times: float) -> list[_Entry]:
    """Return the entries that take at most ``times`` as long as the quickest, that one first."""
    ordered = sorted(entries, key=lambda entry: entry.quick_s)
    return [entry for entry in ordered if entry.quick_s <= times * ordered[0].quick_s]


def _seconds(contender: Contender, pictures: Pictures) -> float:
    begin = time.perf_counter()
    contender.answer(pictures)
    return time.perf_counter() - begin


def _open(entry: _Entry) -> Contender:
    runtime, info = open_choice(entry.choice, entry.choice.threads)
    contender = runtime_contender(runtime, info, entry.choice.artifact)
    contender.name = _title(entry)
    return contender


def _title(entry: _Entry) -> str:
    spin = ", spinning" if entry.choice.options.get("spin") else ""
    return f"{entry.form.name}, threads {entry.choice.threads}{spin}"


def _eager(trained: Trained, threads: int) -> list[Contender]:
    from danlu.deploy.contenders import eager_contender

    return [eager_contender(trained, threads, "fp32")]


def _times(contender: Contender, batch: int) -> NDArray[np.float64]:
    return np.asarray(np.median(np.array(contender.bursts[batch, "arrays"]), axis=1), dtype=np.float64)


def _median_ms(entry: _Entry, batch: int) -> float:
    """Return the median that is shown: what is taken has to be the first of the list."""
    assert entry.contender is not None
    return float(row_of(entry.contender, (batch, "arrays"))["median_ms"])


def _document(
    chosen: _Entry, finalists: Sequence[_Entry], eager: Sequence[Contender], batch: int, max_drop: float
) -> dict[str, Any]:
    first = chosen.contender
    assert first is not None
    others = [e.contender for e in finalists if e is not chosen and e.contender is not None] + list(eager)
    own = _times(first, batch)
    return {
        "schema": SCHEMA,
        "artifact": chosen.choice.artifact.name,
        "runtime": chosen.choice.runtime,
        "precision": first.precision,
        "threads": chosen.choice.threads,
        "options": chosen.choice.options,
        "batch": batch,
        "max_drop": max_drop,
        "drop": chosen.form.drop,
        "measured": [row_of(contender, (batch, "arrays")) for contender in [first, *others]],
        "ratios": [ratio(other.name, first.name, _times(other, batch) / own, batch=batch) for other in others],
    }


def _rows(forms: Sequence[_Form], entries: Sequence[_Entry], chosen: _Entry, batch: int) -> list[dict[str, Any]]:
    rows = []
    for form in forms:
        here = [entry for entry in entries if entry.form is form]
        if not here:
            blank = dict.fromkeys(("precision", "threads", "options", "quick_ms", "median_ms"))
            rows.append({"form": form.name, **blank, "drop": form.drop, "verdict": form.reason})
        for entry in here:
            verdict = "taken" if entry is chosen else "slower"
            rows.append(
                {
                    "form": form.name,
                    "precision": entry.facts["precision"],
                    "threads": entry.choice.threads,
                    "options": entry.choice.options,
                    "quick_ms": 1000 * entry.quick_s,
                    "median_ms": _median_ms(entry, batch) if entry.contender else None,
                    "drop": form.drop,
                    "verdict": verdict,
                }
            )
    return rows


def _write(trained: Trained, chosen: _Entry, document: dict[str, Any], out: Path | None) -> None:
    """Write ``best.json`` beside the artifact; into ``out`` also a copy of the artifact."""
    trained.run.update_record(best=document)
    if out is None:
        files.write_json(trained.run.path / CHOICE, document)
        return
    out.mkdir(parents=True, exist_ok=True)
    source, target = chosen.choice.artifact, out / chosen.choice.artifact.name
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        files.write_whole(target, source.read_bytes())
    files.write_json(out / CHOICE, document)
