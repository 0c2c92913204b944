"""INT8 for ONNX Runtime: which rule calibrates, which layers stay in float until the accuracy holds, does it pay.

Validation decides everything. With a stated drop, layers go back to float by how much each hurts when it alone is
quantised (least signal to noise in the logits first), as few as are needed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from danlu.compress.calibrate import CALIBRATIONS
from danlu.compress.quantize import LayerError, QuantizeReport, layer_errors, quantize_onnx
from danlu.core.log import logger
from danlu.core.settings import Settings
from danlu.deploy.capture import PREPROCESS_STAGE, STAGE_PREFIX
from danlu.deploy.intervals import median_interval
from danlu.deploy.job import ExportJob
from danlu.deploy.parity import labels_for, logits_of
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime
from danlu.deploy.subjects import LOGITS, ArtifactSubject

if TYPE_CHECKING:
    import onnx

__all__ = ["Int8Settings", "Quantising", "compare_speed", "fewest", "quantise_job"]

_FROM = STAGE_PREFIX + PREPROCESS_STAGE
_SENSITIVITY_PICTURES = 128
_ROUNDS, _CALLS, _WARM = 15, 5, 5


class Int8Settings(Settings):
    """How the INT8 artifact is made.

    Attributes:
        calibration: how ranges of activations are chosen, see :mod:`danlu.compress.calibrate`; ``auto``: the rule with
            the best accuracy on validation, of equal ones the one that moves the logits least.
        max_drop: points of accuracy on validation it may cost; layers go back to float until it holds. None: no layer
            does, and it is delivered if it costs at most the larger of 0.5 points and two pictures.
        pictures: so many training pictures calibrate.
    """

    calibration: Literal["auto", "min-max", "percentile", "entropy", "mse"] = "min-max"
    max_drop: float | None = Field(default=None, ge=0.0, le=100.0)
    pictures: int = Field(default=512, ge=1)


@dataclass
class Quantising:
    """What was found on the way to one INT8 graph.

    Attributes:
        model: the graph.
        report: of its quantisation.
        rules: accuracy on validation and signal to noise of each rule that was tried.
        sensitivity: of each layer quantised alone, the one that hurts most first; empty where nobody asked.
        tried: ``(layers in float, drop in points)`` in the order of the search.
    """

    model: onnx.ModelProto
    report: QuantizeReport
    rules: list[dict[str, Any]] = field(default_factory=list)
    sensitivity: list[LayerError] = field(default_factory=list)
    tried: list[tuple[int, float]] = field(default_factory=list)

    def to_record(self, max_drop: float | None) -> dict[str, Any]:
        """Return plain values; each layer in float with the reason for it."""
        reasons = {
            row.layer: f"quantised alone it leaves {row.snr_db:.1f} dB of signal to noise in the logits and moves them "
            f"by up to {row.error:.2g} of the largest"
            for row in self.sensitivity
        }
        return {
            **self.report.to_record(),
            "rules": self.rules,
            "max_drop": max_drop,
            "tried": [{"float_layers": count, "drop": drop} for count, drop in self.tried],
            "sensitivity": [
                {"layer": row.layer, "error": row.error, "snr_db": row.snr_db if np.isfinite(row.snr_db) else None}
                for row in self.sensitivity
            ],
            "float": [
                {"layer": name, "reason": reasons.get(name, "its kind or place is not quantised")}
                for name in self.report.float_layers
            ],
        }


def quantise_job(job: ExportJob, settings: Int8Settings, batch: int) -> Quantising:
    """Quantise the float32 artifact of ``job`` as ``settings`` say.

    Raises:
        InputError: it has no layer to quantise.
    """
    pictures = list(job.calibration(settings.pictures, batch))
    with tempfile.TemporaryDirectory(prefix="danlu-export-") as folder:

        def make(rule: str, keep: Sequence[str]) -> tuple[onnx.ModelProto, QuantizeReport]:
            import onnx

            target = Path(folder) / "int8.onnx"
            report = quantize_onnx(job.fp32, target, pictures, float_until=_FROM, rule=rule, keep_float=keep)
            return onnx.load(str(target)), report

        found = _best_rule(job, settings, make)
        if settings.max_drop is not None:
            found = _hold(job, settings.max_drop, found, make)
    return found


Make = Callable[[str, Sequence[str]], "tuple[onnx.ModelProto, QuantizeReport]"]


def _measure(job: ExportJob, model: onnx.ModelProto) -> tuple[float, float]:
    """Return accuracy on validation and signal to noise of the logits, in dB."""
    subject = ArtifactSubject(model.SerializeToString(), "INT8", job.threads)
    labels = labels_for(job.eager, job.data.split("validation"))
    answer = logits_of(subject, job.loaders["validation"], "validation, INT8")
    reference = _reference(job).astype(np.float64)
    noise = float(((answer - reference) ** 2).sum())
    snr = 10 * np.log10((reference**2).sum() / noise) if noise > 0 else np.inf
    return float((answer.argmax(axis=1) == labels).mean()), float(snr)


def _reference(job: ExportJob) -> Any:
    if "validation" not in job.reference:
        job.reference["validation"] = logits_of(job.eager, job.loaders["validation"], "validation, PyTorch")
    return job.reference["validation"]


def _accuracy(job: ExportJob) -> float:
    labels = labels_for(job.eager, job.data.split("validation"))
    return float((_reference(job).argmax(axis=1) == labels).mean())


def _best_rule(job: ExportJob, settings: Int8Settings, make: Make) -> Quantising:
    if settings.calibration != "auto":
        return Quantising(*make(settings.calibration, ()))
    candidates = []
    for rule in CALIBRATIONS:
        model, report = make(rule, ())
        accuracy, snr = _measure(job, model)
        candidates.append((accuracy, snr, Quantising(model, report)))
        logger.info("export: INT8 by %s: validation accuracy %.4f, %.1f dB", rule, accuracy, snr)
    best = max(candidates, key=lambda row: row[:2])[2]
    best.rules = [
        {"rule": one.report.method, "accuracy": accuracy, "snr_db": snr if np.isfinite(snr) else None}
        for accuracy, snr, one in candidates
    ]
    return best


def _hold(job: ExportJob, max_drop: float, found: Quantising, make: Make) -> Quantising:
    """Give layers back to float until at most ``max_drop`` points are lost on validation."""
    accuracy, rule = _accuracy(job), found.report.method
    made = {0: (found.model, found.report)}

    def drop(count: int) -> float:
        if count not in made:
            made[count] = make(rule, order[:count])
        lost = 100 * (accuracy - _measure(job, made[count][0])[0])
        found.tried.append((count, round(lost, 4)))
        logger.info("export: INT8 with %d layers in float: %+.2f points on validation", count, -lost)
        return lost

    order: list[str] = []
    # A hair more than allowed is rounding of the percentage, not a lost picture.
    allowed = max_drop + 1e-9
    if drop(0) <= allowed:
        return found
    pictures = job.loaders["validation"].pictures(
        np.arange(min(_SENSITIVITY_PICTURES, len(_reference(job))), dtype=np.int64)
    )
    rows = layer_errors(
        job.fp32.read_bytes(), found.model.SerializeToString(deterministic=True), pictures, output=LOGITS
    )
    found.sensitivity = sorted(rows, key=lambda row: row.snr_db)
    order = [row.layer for row in found.sensitivity]
    # With all layers in float nothing would be INT8: then the drop does not hold, and the caller says so.
    count = fewest(len(order) - 1, lambda count: drop(count) <= allowed)
    found.model, found.report = made[count if count is not None else 0]
    return found


def fewest(most: int, holds: Callable[[int], bool]) -> int | None:
    """Return the least count of 1 … ``most`` that holds, where more never hold less; None where none does.

    Counts are doubled until one holds, then halved into the gap, so that a deep network is not quantised once a layer.
    """
    low, high = 0, 1
    while high < most and not holds(high):
        low, high = high, min(2 * high, most)
    if high >= most:
        if most < 1 or (most == low or not holds(most)):
            return None
        high = most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def compare_speed(job: ExportJob, artifact: ArtifactSubject) -> dict[str, Any]:
    """Measure the float32 and the INT8 artifact side by side at batch 1, and warn where INT8 is the slower one.

    Returns:
        ``fp32_ms`` and ``int8_ms`` (medians), ``speedup`` with its 95 % interval ``low`` … ``high``, ``threads``.
    """
    picture = job.loaders["validation"].pictures(np.zeros(1, dtype=np.int64))
    runtimes = [OnnxRuntime.load(job.fp32, threads=job.threads), artifact.runtime]
    seconds = np.zeros((2, _ROUNDS))
    for runtime in runtimes:
        for _ in range(_WARM):
            runtime.predict(picture, [LOGITS])
    for turn in range(_ROUNDS):
        for which in (0, 1) if turn % 2 else (1, 0):
            times = []
            for _ in range(_CALLS):
                begin = time.perf_counter()
                runtimes[which].predict(picture, [LOGITS])
                times.append(time.perf_counter() - begin)
            seconds[which, turn] = np.median(times)
    ratio, low, high = median_interval(seconds[0] / seconds[1])
    fp32, int8 = (1000 * float(np.median(row)) for row in seconds)
    if high < 1.0:
        logger.warning(
            "export: INT8 is slower than float32 on this machine: %.3f ms against %.3f ms a picture, %.2f (%.2f to "
            "%.2f) times as fast",
            *(int8, fp32, ratio, low, high),
        )
    return {"fp32_ms": fp32, "int8_ms": int8, "speedup": ratio, "low": low, "high": high, "threads": job.threads}
