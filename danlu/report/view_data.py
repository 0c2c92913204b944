"""What the report says about the data and the training: records in, plain values and charts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from danlu.report.charts import Series, line_chart
from danlu.report.fields import flag, listing, number, section, table, whole, words
from danlu.report.figures import count, percent, significant
from danlu.report.marks import profile, stacked_bar
from danlu.report.pictures import Picture, embed

__all__ = ["SPLITS", "Balance", "DataView", "TrainingView", "data_view", "training_view"]

SPLITS = ("train", "validation", "test")
_MOST_BARS = 40


@dataclass(frozen=True)
class Balance:
    """Pictures of one class by split, and the bar that shows them."""

    name: str
    counts: tuple[int, ...]
    total: int
    bar: Markup


@dataclass(frozen=True)
class DataView:
    """The data section."""

    name: str | None
    source: str | None
    classes: int | None
    picture: str | None
    varied: bool
    sizes: dict[str, int | None]
    test_given: bool | None
    seed: int | None
    mean: str | None
    std: str | None
    licence: str | None
    citation: str | None
    hash: str | None
    balance: list[Balance]
    profile: Markup | None
    most: Balance | None
    least: Balance | None
    problems: list[tuple[str, str]]
    problem_count: int
    duplicates: list[list[str]]
    duplicate_count: int


def data_view(record: dict[str, Any]) -> DataView | None:
    """Return the data section of ``record["data"]``, or ``None`` where nothing was recorded."""
    data = section(record, "data")
    if not data:
        return None
    picture = section(data, "picture")
    extent = [whole(picture, key) for key in ("height", "width", "channels")]
    balance = _balance(data)
    many = len(balance) > _MOST_BARS
    ordered = sorted(balance, key=lambda row: -row.total)
    problems = table(section(data, "problems"), "first") or table(data, "problems")
    pairs = listing(section(data, "duplicates"), "first") or listing(data, "duplicates")
    return DataView(
        name=words(data, "name"),
        source=words(data, "source"),
        classes=len(listing(data, "classes")) or None,
        picture=None if None in extent else " × ".join(str(value) for value in extent),
        varied=flag(picture, "uniform") is False,
        sizes={split: whole(section(data, "sizes"), split) for split in SPLITS},
        test_given=flag(data, "test_given"),
        seed=whole(data, "seed"),
        mean=_channels(data, "mean"),
        std=_channels(data, "std"),
        licence=words(data, "licence"),
        citation=words(data, "citation"),
        hash=words(data, "hash"),
        balance=[] if many else balance,
        profile=profile([row.total for row in balance]) if many else None,
        most=ordered[0] if ordered else None,
        least=ordered[-1] if ordered else None,
        problems=[(str(row.get("id")), str(row.get("reason"))) for row in problems],
        problem_count=_total(data, "problems", len(problems)),
        duplicates=[_sides(pair) for pair in pairs],
        duplicate_count=_total(data, "duplicates", len(pairs)),
    )


def _sides(pair: Any) -> list[str]:
    values = list(pair.values()) if isinstance(pair, dict) else pair if isinstance(pair, list) else [pair]
    return [" / ".join(map(str, value)) if isinstance(value, list) else str(value) for value in values]


def _total(data: dict[str, Any], key: str, shown: int) -> int:
    singular = key.removesuffix("s")
    for found in (whole(section(data, key), "count"), whole(data, f"{key}_count"), whole(data, f"{singular}_count")):
        if found is not None:
            return found
    return shown


def _channels(data: dict[str, Any], key: str) -> str | None:
    values = [value for value in listing(data, key) if isinstance(value, int | float)]
    return ", ".join(f"{value:.4f}" for value in values) or None


def _balance(data: dict[str, Any]) -> list[Balance]:
    names = [str(name) for name in listing(data, "classes")]
    recorded = section(data, "counts") or section(data, "per_class")
    counts = {split: recorded.get(split) for split in SPLITS}
    columns = [values if isinstance(values, list) and len(values) == len(names) else None for values in counts.values()]
    if not names or all(column is None for column in columns):
        return []
    rows = [
        tuple(int(column[i]) if column is not None and isinstance(column[i], int) else 0 for column in columns)
        for i in range(len(names))
    ]
    most = max(sum(row) for row in rows)
    return [
        Balance(name, row, sum(row), stacked_bar(list(zip(SPLITS, row, strict=True)), most))
        for name, row in zip(names, rows, strict=True)
    ]


@dataclass(frozen=True)
class Curve:
    """One chart: the id and the text of its caption, and the drawing."""

    ident: str
    caption: str
    drawing: Markup
    log: bool = False


@dataclass(frozen=True)
class TrainingView:
    """The training section."""

    epochs: int | None
    steps: int | None
    seconds: float | None
    speed: float | None
    best_epoch: int | None
    resumed: int | None
    curves: list[Curve]
    augmented: Picture | None


def training_view(record: dict[str, Any], log: Sequence[dict[str, Any]], folder: Path) -> TrainingView | None:
    """Return the training section of ``record["train"]`` and the log, or ``None`` where neither says anything."""
    train = section(record, "train")
    epochs = [row for row in log if row.get("kind") == "epoch" and number(row, "epoch") is not None]
    steps = [row for row in log if row.get("kind") == "step" and number(row, "step") is not None]
    if not train and not epochs:
        return None
    return TrainingView(
        epochs=whole(train, "epochs"),
        steps=whole(train, "steps"),
        seconds=number(train, "seconds"),
        speed=number(train, "pictures_per_second"),
        best_epoch=whole(train, "best_epoch"),
        resumed=whole(train, "resumed"),
        curves=_curves(epochs, steps, number(train, "best_epoch")) if epochs else [],
        augmented=embed(folder, "pictures/augmented.png"),
    )


def _line(rows: Sequence[dict[str, Any]], *keys: str, positive: bool = False) -> list[tuple[float, float]]:
    """Return (epoch, value) points; of an epoch that stands twice, the later entry counts."""
    points = {}
    for row in rows:
        value = number(section(row, *keys[:-1]), keys[-1])
        if value is not None and not (positive and value <= 0):
            points[float(row["epoch"])] = value
    return sorted(points.items())


def _step_line(
    steps: Sequence[dict[str, Any]], epochs: Sequence[dict[str, Any]], key: str
) -> list[tuple[float, float]]:
    """Return (epoch as a fraction, value) of single steps: an epoch's last step lies on the epoch itself."""
    last = max(epochs, key=lambda row: number(row, "step") or 0)
    last_step, last_epoch = number(last, "step"), number(last, "epoch")
    if not last_step or not last_epoch:
        return []
    points = {row["step"] * last_epoch / last_step: number(row, key) for row in steps}
    return sorted((x, y) for x, y in points.items() if y is not None)


def _curves(
    epochs: Sequence[dict[str, Any]], steps: Sequence[dict[str, Any]], best: float | None
) -> list[Curve]:
    train, validation = _line(epochs, "train", "loss"), _line(epochs, "validation", "loss")
    single = _step_line(steps, epochs, "loss")
    losses = [y for line in (train, validation, single) for _, y in line]
    curves = []
    if losses:
        log = min(losses) > 0 and max(losses) / min(losses) > 20
        lines = [Series("step", "train", single, faint=True), Series("train", "train", train),
                 Series("validation", "validation", validation)]
        drawing = line_chart(lines, significant, ident="curve-loss", log=log, bounds=(0.0, None), best=best)
        curves.append(Curve("curve-loss", "loss_curve", drawing, log))
    lines = [Series("train", "train", _line(epochs, "train", "accuracy")),
             Series("validation", "validation", _line(epochs, "validation", "accuracy"))]
    if any(line.points for line in lines):
        drawing = line_chart(lines, lambda v: percent(v, 1e4), ident="curve-accuracy", bounds=(0.0, 1.0), best=best,
                             tick_label=_percent_ticks)
        curves.append(Curve("curve-accuracy", "accuracy_curve", drawing))
    for ident, caption, key, style, label in (
        ("curve-rate", "rate_curve", "lr", "rate", significant),
        ("curve-speed", "speed_curve", "pictures_per_second", "speed", count),
    ):
        points = (_step_line(steps, epochs, key) if key == "lr" else []) or _line(epochs, key)
        if points:
            series = [Series("rate" if key == "lr" else "speed_series", style, points)]
            curves.append(Curve(ident, caption, line_chart(series, label, ident=ident, bounds=(0.0, None))))
    return curves


def _percent_ticks(values: Sequence[float]) -> list[str]:
    smallest = min(b - a for a, b in zip(values, values[1:], strict=False)) if len(values) > 1 else 0.1
    places = 0 if smallest >= 0.0099 else 1 if smallest >= 0.00099 else 2
    return [f"{100 * value:.{places}f}\u202f%" for value in values]
