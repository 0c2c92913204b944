"""What the report says about evaluation and analysis: records in, plain values and charts out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from danlu.report.fields import listing, number, section, table, whole, words
from danlu.report.figures import shape
from danlu.report.heatmap import LARGEST_MAP, Pair, confused_pairs, heat_map, read_matrix, thumbnail
from danlu.report.marks import bar, spot
from danlu.report.pictures import Picture, embed

__all__ = [
    "AnalysisView",
    "ClassRow",
    "EvaluationView",
    "LayerRow",
    "Result",
    "SplitRow",
    "Worst",
    "analysis_view",
    "evaluation_view",
    "read_result",
]

_MOST_PAIRS_BESIDE, _MOST_PAIRS_ALONE = 8, 24


@dataclass(frozen=True)
class Result:
    """One recorded figure with its interval."""

    value: float
    low: float | None
    high: float | None
    n: int | None


def read_result(record: dict[str, Any], split: str, metric: str) -> Result | None:
    """Return ``record["results"][split][metric]``."""
    found = section(record, "results", split, metric)
    value = number(found, "value")
    return None if value is None else Result(value, number(found, "low"), number(found, "high"), whole(found, "n"))


@dataclass(frozen=True)
class SplitRow:
    """Results of one split."""

    split: str
    accuracy: Result | None
    cross_entropy: Result | None


@dataclass(frozen=True)
class ClassRow:
    """One class: shares between 0 and 1, counts, and the mark of its F1; what no picture supports is ``None``."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None
    support: int | None
    predicted: int | None
    spot: Markup


@dataclass(frozen=True)
class Worst:
    """A picture the model got most wrong."""

    id: str
    true: str
    predicted: str
    probability: float | None
    loss: float | None
    picture: Picture | None


@dataclass(frozen=True)
class EvaluationView:
    """The evaluation section."""

    split: str
    splits: list[SplitRow]
    class_count: int
    map: Markup | None
    thumbnail: str | None
    thumbnail_side: int
    has_matrix: bool
    pairs: list[Pair]
    classes: list[ClassRow]
    axis_start: float
    never_predicted: int
    has_average_precision: bool
    worst: list[Worst]
    several: list[tuple[str, str, Result]]


def evaluation_view(record: dict[str, Any], folder: Path) -> EvaluationView | None:
    """Return the evaluation section of ``results`` and ``evaluation``, or ``None`` where neither was recorded."""
    evaluation = section(record, "evaluation")
    splits = [
        SplitRow(split, read_result(record, split, "accuracy"), read_result(record, split, "cross_entropy"))
        for split in ("test", "validation")
    ]
    splits = [row for row in splits if row.accuracy or row.cross_entropy]
    if not evaluation and not splits:
        return None
    names = [str(name) for name in listing(evaluation, "classes")]
    matrix = read_matrix(evaluation.get("confusion"), names)
    small = matrix is not None and len(names) <= LARGEST_MAP
    picture, side = thumbnail(matrix) if matrix is not None and not small else (None, 0)
    most = _MOST_PAIRS_BESIDE if small else _MOST_PAIRS_ALONE
    per_class = table(evaluation, "per_class")
    start = _axis_start(per_class)
    classes = [_class_row(row, start) for row in per_class]
    return EvaluationView(
        split=words(evaluation, "split") or "test",
        splits=splits,
        class_count=len(names),
        map=heat_map(matrix, names, ident="confusion-caption") if matrix is not None and small else None,
        thumbnail=picture,
        thumbnail_side=side,
        has_matrix=matrix is not None,
        pairs=confused_pairs(matrix, names, most) if matrix is not None else [],
        classes=classes,
        axis_start=start,
        never_predicted=sum(row.predicted == 0 and row.support != 0 for row in classes),
        has_average_precision=any(row.average_precision is not None for row in classes),
        worst=[_worst(row, folder) for row in table(evaluation, "worst")],
        several=[
            (split, name, found)
            for split in ("test", "validation")
            for name in ("mean_average_precision", "f1_micro", "f1_macro")
            if (found := read_result(record, split, name)) is not None
        ],
    )


def _axis_start(rows: list[dict[str, Any]]) -> float:
    """Return the tenth below the smallest F1 of a class with pictures: where the axis of the column begins."""
    values = [value for row in rows if whole(row, "support") != 0 and (value := number(row, "f1")) is not None]
    return min(math.floor(10 * min(values, default=0.0) + 1e-9) / 10, 0.9)


def _class_row(row: dict[str, Any], start: float) -> ClassRow:
    support, predicted = whole(row, "support"), whole(row, "predicted")
    f1 = None if support == 0 else number(row, "f1")
    return ClassRow(
        name=str(row.get("class")),
        # A class that has pictures and was never predicted has precision 0; one without either has none.
        precision=None if support == 0 and predicted == 0 else number(row, "precision"),
        recall=None if support == 0 else number(row, "recall"),
        f1=f1,
        average_precision=number(row, "average_precision"),
        support=support,
        predicted=predicted,
        spot=spot(f1, start),
    )


def _worst(row: dict[str, Any], folder: Path) -> Worst:
    return Worst(
        id=str(row.get("id")),
        true=str(row.get("true")),
        predicted=str(row.get("predicted")),
        probability=number(row, "probability"),
        loss=number(row, "loss"),
        picture=embed(folder, words(row, "picture"), shown=128),
    )


@dataclass(frozen=True)
class LayerRow:
    """One layer of the network; bars are shares of the largest layer. The network itself has no name."""

    name: str | None
    type: str
    output: str
    parameters: int | None
    macs: int | None
    milliseconds: float | None
    parameters_bar: Markup
    macs_bar: Markup
    time_bar: Markup


@dataclass(frozen=True)
class AnalysisView:
    """The analysis section."""

    parameters: int | None
    macs: int | None
    weight_bytes: int | None
    activation_bytes: int | None
    peak_activation_bytes: int | None
    milliseconds: float | None
    input: str
    layers: list[LayerRow]


def _thousandfold(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds


def analysis_view(record: dict[str, Any]) -> AnalysisView | None:
    """Return the analysis section, or ``None`` where the model was not analyzed."""
    analysis = section(record, "analysis")
    if not analysis:
        return None
    layers = table(analysis, "layers")
    most = {
        key: max((number(row, key) or 0.0 for row in layers), default=0.0) for key in ("parameters", "macs", "seconds")
    }

    def share(row: dict[str, Any], key: str) -> float:
        return (number(row, key) or 0.0) / most[key] if most[key] else 0.0

    rows = []
    for row in layers:
        rows.append(
            LayerRow(
                name=words(row, "name"),
                type=str(row.get("type")),
                output=shape(row.get("output")),
                parameters=whole(row, "parameters"),
                macs=whole(row, "macs"),
                milliseconds=_thousandfold(number(row, "seconds")),
                parameters_bar=bar(share(row, "parameters"), "train"),
                macs_bar=bar(share(row, "macs"), "validation"),
                time_bar=bar(share(row, "seconds"), "test"),
            )
        )
    return AnalysisView(
        parameters=whole(analysis, "parameters"),
        macs=whole(analysis, "macs"),
        weight_bytes=whole(analysis, "weight_bytes"),
        activation_bytes=whole(analysis, "activation_bytes"),
        peak_activation_bytes=whole(analysis, "peak_activation_bytes"),
        milliseconds=_thousandfold(number(analysis, "seconds")),
        input=shape(analysis.get("input")),
        layers=rows,
    )
