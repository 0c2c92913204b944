"""What the report says about the training: record and log in, plain values and charts out."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from danlu.report.charts import Series, line_chart
from danlu.report.fields import listing, number, section, whole, words
from danlu.report.figures import count, percent, shorten, significant
from danlu.report.pictures import Picture, embed

__all__ = ["Curve", "Event", "TrainingView", "training_view"]

_LOG_SPAN = 20  # largest loss ÷ smallest, beyond which the axis is logarithmic
_MOST_IDS = 8


@dataclass(frozen=True)
class Curve:
    """One chart: the id of its caption, the text key of it, and the drawing."""

    ident: str
    caption: str
    drawing: Markup
    log: bool = False


@dataclass(frozen=True)
class Event:
    """Something that happened during the training: resumed, stopped, diverged; ``parts`` of a batch from then on."""

    what: str
    epoch: int | None
    step: int | None
    parts: int | None
    details: str


@dataclass(frozen=True)
class TrainingView:
    """The training section; epochs count from 1."""

    finished: bool
    epochs: int | None
    steps: int | None
    seconds: float | None
    speed: float | None
    best_epoch: int | None
    on_all: bool
    resumed: int | None
    events: list[Event]
    curves: list[Curve]
    augmented: Picture | None


def training_view(record: dict[str, Any], log: Sequence[dict[str, Any]], folder: Path) -> TrainingView | None:
    """Return the training section of ``record["train"]`` and the log, or ``None`` where neither says anything."""
    train = section(record, "train")
    epochs = [row for row in log if row.get("kind") == "epoch" and number(row, "epoch") is not None]
    steps = [row for row in log if row.get("kind") == "step" and number(row, "step") is not None]
    events = [row for row in log if row.get("kind") == "event"]
    if not train and not epochs and not events:
        return None
    # The log counts epochs from 0; people count from 1. A log that begins with 1 is left as it is.
    first = 1 if min((row["epoch"] for row in epochs), default=0) < 1 else 0
    epochs = [{**row, "epoch": row["epoch"] + first} for row in epochs]
    best = whole(train, "best_epoch")
    best = None if best is None else best + first
    return TrainingView(
        finished=bool(train),
        epochs=whole(train, "epochs") or (round(max(row["epoch"] for row in epochs)) if epochs else None),
        steps=whole(train, "steps") or max((whole(row, "step") or 0 for row in [*steps, *epochs]), default=None),
        seconds=number(train, "seconds"),
        speed=number(train, "pictures_per_second"),
        best_epoch=best,
        on_all=train.get("trained_on", "train") != "train",
        resumed=whole(train, "resumed"),
        events=[_event(row, first) for row in events],
        curves=_curves(epochs, steps, best) if epochs else [],
        augmented=embed(folder, "pictures/augmented.png"),
    )


def _event(row: dict[str, Any], first: int) -> Event:
    epoch = whole(row, "epoch")
    ids = [shorten(str(ident), 40) for ident in listing(row, "ids")]
    more = f", … ({len(ids):,})" if len(ids) > _MOST_IDS else ""
    pieces = [words(row, "reason"), _signal(row), ", ".join(ids[:_MOST_IDS]) + more]
    return Event(
        what=str(row.get("what")),
        epoch=None if epoch is None else epoch + first,
        step=whole(row, "step"),
        parts=whole(row, "parts"),
        details=" · ".join(piece for piece in pieces if piece),
    )


def _signal(row: dict[str, Any]) -> str | None:
    """Return the name of the recorded signal; its number where this machine knows none."""
    found = whole(row, "signal")
    if found is None:
        return None
    return signal.Signals(found).name if found in set(signal.Signals) else str(found)


def _line(rows: Sequence[dict[str, Any]], *keys: str) -> list[tuple[float, float]]:
    """Return (epoch, value) points; of an epoch that stands twice, the later entry counts."""
    found = ((float(row["epoch"]), number(section(row, *keys[:-1]), keys[-1])) for row in rows)
    return sorted({epoch: value for epoch, value in found if value is not None}.items())


def _step_line(
    steps: Sequence[dict[str, Any]], epochs: Sequence[dict[str, Any]], key: str
) -> list[tuple[float, float]]:
    """Return (epochs done, value) of single steps: an epoch's last step lies on the epoch itself."""
    last = max(epochs, key=lambda row: number(row, "step") or 0.0)
    last_step = number(last, "step")
    if not last_step:
        return []
    found = {row["step"] * last["epoch"] / last_step: number(row, key) for row in steps}
    return sorted((x, y) for x, y in found.items() if y is not None)


def _curves(epochs: Sequence[dict[str, Any]], steps: Sequence[dict[str, Any]], best: int | None) -> list[Curve]:
    curves = [_loss_curve(epochs, steps, best), _accuracy_curve(epochs, best)]
    rates = _step_line(steps, epochs, "lr") or _line(epochs, "lr")
    curves.append(_single("rate", rates, significant))
    curves.append(_single("speed", _line(epochs, "pictures_per_second"), count))
    return [curve for curve in curves if curve is not None]


def _loss_curve(epochs: Sequence[dict[str, Any]], steps: Sequence[dict[str, Any]], best: int | None) -> Curve | None:
    lines = [
        Series("step", "train", _step_line(steps, epochs, "loss"), faint=True),
        Series("train", "train", _line(epochs, "train", "loss")),
        Series("validation", "validation", _line(epochs, "validation", "loss")),
    ]
    losses = [y for line in lines for _, y in line.points]
    if not losses:
        return None
    log = min(losses) > 0 and max(losses) / min(losses) > _LOG_SPAN
    drawing = line_chart(lines, significant, ident="curve-loss", log=log, bounds=(0.0, None), best=best)
    return Curve("curve-loss", "loss_curve", drawing, log)


def _accuracy_curve(epochs: Sequence[dict[str, Any]], best: int | None) -> Curve | None:
    lines = [
        Series("train", "train", _line(epochs, "train", "accuracy")),
        Series("validation", "validation", _line(epochs, "validation", "accuracy")),
    ]
    if not any(line.points for line in lines):
        return None
    drawing = line_chart(
        lines, percent, ident="curve-accuracy", bounds=(0.0, 1.0), best=best, tick_label=_percent_ticks
    )
    return Curve("curve-accuracy", "accuracy_curve", drawing)


def _single(key: str, points: Sequence[tuple[float, float]], label: Callable[[float], str]) -> Curve | None:
    if not points:
        return None
    ident = f"curve-{key}"
    series = [Series("rate" if key == "rate" else "speed_series", key, points)]
    return Curve(ident, f"{key}_curve", line_chart(series, label, ident=ident, from_zero=True))


def _percent_ticks(values: Sequence[float]) -> list[str]:
    smallest = min((b - a for a, b in pairwise(values)), default=0.1)
    places = 0 if smallest > 0.0099 else 1 if smallest > 0.00099 else 2
    return [f"{100 * value:.{places}f}\u202f%" for value in values]
