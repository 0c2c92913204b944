"""The figures of an evaluation where a picture has several labels, or none."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.files import write_whole
from danlu.core.log import logger
from danlu.evaluate.outputs import safe_cell
from danlu.metrics.accuracy import accuracy
from danlu.metrics.cross_entropy import binary_cross_entropies, mean_result
from danlu.metrics.f1_macro import f1_macro
from danlu.metrics.f1_micro import f1_micro
from danlu.metrics.label_sets import class_f1
from danlu.metrics.mean_average_precision import average_precisions, mean_average_precision

__all__ = ["several_figures", "several_results", "write_several"]

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


def several_results(labels: Labels, logits: Logits) -> dict[str, Any]:
    """Return the figures of a split for labels [N, K] of 0 and 1; ``accuracy`` counts a picture with all classes right.

    ``mean_average_precision`` is left out where no class has a picture.
    """
    decided = logits > 0
    figures = {
        "accuracy": accuracy(np.ones(len(labels), dtype=np.int64), (decided == (labels == 1)).all(axis=1)),
        "cross_entropy": mean_result(binary_cross_entropies(labels, logits)),
        "f1_micro": f1_micro(labels, decided),
    }
    if (labels.any(axis=0) | decided.any(axis=0)).any():
        figures["f1_macro"] = f1_macro(labels, decided)
    if labels.any():
        figures["mean_average_precision"] = mean_average_precision(labels, logits)
    return figures


def several_figures(
    ids: Any, labels: Labels, logits: Logits, classes: Sequence[str], split: str, worst: int
) -> dict[str, Any]:
    """Return what an evaluation holds; see :func:`danlu.evaluate.evaluate`. There is no confusion matrix."""
    losses = binary_cross_entropies(labels, logits)
    return {
        "results": {split: several_results(labels, logits)},
        "evaluation": {
            "split": split,
            "classes": list(classes),
            "threshold": 0.5,
            "per_class": _per_class(labels, logits, classes, split),
            "worst": [
                {
                    "id": ids[i],
                    "index": i,
                    "true": _named(labels[i] == 1, classes),
                    "predicted": _named(logits[i] > 0, classes),
                    "probability": None,
                    "loss": float(losses[i]),
                    "picture": None,
                }
                for i in np.argsort(-losses, kind="stable")[:worst].tolist()
            ],
        },
    }


def _named(chosen: NDArray[np.bool_], classes: Sequence[str]) -> str:
    return "; ".join(classes[k] for k in np.flatnonzero(chosen).tolist()) or "–"


def _per_class(labels: Labels, logits: Logits, classes: Sequence[str], split: str) -> list[dict[str, Any]]:
    hits, there, called = class_f1(labels == 1, logits > 0)
    precisions = average_precisions(labels == 1, logits.astype(np.float64))
    rows = []
    for k, name in enumerate(classes):
        notes = ["never predicted"] * (not called[k]) + ["no pictures"] * (not there[k])
        if "never predicted" in notes:
            logger.warning("%s: class %r was never predicted", split, name)
        rows.append(
            {
                "class": name,
                "precision": hits[k] / called[k] if called[k] else 0.0,
                "recall": hits[k] / there[k] if there[k] else 0.0,
                "f1": 2 * hits[k] / (there[k] + called[k]) if there[k] + called[k] else 0.0,
                "average_precision": None if np.isnan(precisions[k]) else float(precisions[k]),
                "support": int(there[k]),
                "predicted": int(called[k]),
                "note": ", ".join(notes),
            }
        )
    return rows


def write_several(path: Path, ids: Sequence[str], labels: Labels, logits: Logits, classes: Sequence[str]) -> None:
    """Write one row a picture, in the data set's order: id, true, predicted, correct, loss, a probability a class."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    names = [safe_cell(name) for name in classes]
    writer.writerow(["id", "true", "predicted", "correct", "loss", *names])
    decided, losses = logits > 0, binary_cross_entropies(labels, logits)
    probabilities = 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -700, 700)))
    for i in range(len(labels)):
        sets = [
            safe_cell(";".join(classes[k] for k in np.flatnonzero(row).tolist()))
            for row in (labels[i] == 1, decided[i])
        ]
        right = int((decided[i] == (labels[i] == 1)).all())
        writer.writerow([safe_cell(ids[i]), *sets, right, f"{losses[i]:.6f}", *(f"{p:.6f}" for p in probabilities[i])])
    write_whole(path, text.getvalue().encode("utf-8-sig"))
