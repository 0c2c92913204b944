"""What the report says about deployment, parity and speed: records in, plain values and charts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from danlu.deploy.front import STEPS
from danlu.deploy.machine import is_busy, takes_cores
from danlu.report.charts import Latency, dot_chart, latency_chart
from danlu.report.fields import flag, flatten, number, section, table, whole, words
from danlu.report.figures import error_size, plain
from danlu.report.marks import bar
from danlu.report.view_results import Result, read_result

__all__ = [
    "BenchmarkRow",
    "BenchmarkView",
    "Comparison",
    "DeploymentView",
    "FormRow",
    "LayerError",
    "ParityRow",
    "ParityView",
    "RatioRow",
    "benchmark_view",
    "deployment_view",
    "parity_view",
]

_EAGER = "pytorch eager"
# Text key, the runtime's name in the benchmark, artifact and parity section.
_FORMS = (
    ("pytorch", _EAGER, None),
    ("onnx_fp32", "onnxruntime fp32", "fp32"),
    ("onnx_int8", "onnxruntime int8", "int8"),
)
_STYLES = {_EAGER: "rate", "onnxruntime fp32": "train", "onnxruntime int8": "speed"}
_MOST_LAYERS = 12


@dataclass(frozen=True)
class FormRow:
    """One form of the model with its ratios to PyTorch eager."""

    key: str
    size: int | None
    size_ratio: float | None
    latency: list[tuple[float | None, float | None]]
    accuracy: float | None
    points: float | None
    n: int | None
    exists: bool


@dataclass(frozen=True)
class DeploymentView:
    """The size, latency and accuracy table."""

    batches: list[int]
    rows: list[FormRow]
    int8_delivered: bool | None
    int8_reason: str | None
    int8_asked: bool
    details: list[tuple[str, str]]

    def row(self, key: str) -> FormRow | None:
        """Return the row of one form that was delivered."""
        return next((row for row in self.rows if row.key == key and row.exists), None)


def deployment_view(record: dict[str, Any]) -> DeploymentView | None:
    """Return the deployment section, or ``None`` where nothing was exported."""
    artifacts = section(record, "artifacts")
    if not artifacts and not section(record, "parity"):
        return None
    medians = {
        (words(row, "runtime"), whole(row, "batch")): number(row, "median_ms")
        for row in table(section(record, "benchmark"), "rows")
    }
    batches = sorted({batch for _, batch in medians if batch is not None})
    gains = _gains(section(record, "benchmark"))
    eager_size = whole(section(record, "analysis"), "weight_bytes")
    eager_accuracy = read_result(record, "test", "accuracy")
    rows = []
    for key, runtime, precision in _FORMS:
        artifact = section(artifacts, precision or "")
        if precision and not artifact and not section(record, "parity", precision):
            continue
        test = section(record, "parity", precision or "", "test")
        size = whole(artifact, "bytes") if precision else eager_size
        accuracy = number(test, "accuracy_b") if precision else eager_accuracy.value if eager_accuracy else None
        rows.append(
            FormRow(
                key=key,
                size=size,
                size_ratio=size / eager_size if precision and size and eager_size else None,
                latency=[(medians.get((runtime, batch)), gains.get((runtime, batch))) for batch in batches],
                accuracy=accuracy,
                points=_change(accuracy, eager_accuracy) if precision else None,
                n=whole(test, "n") if precision else eager_accuracy.n if eager_accuracy else None,
                exists=not precision or bool(words(artifact, "file")),
            )
        )
    int8 = section(record, "parity", "int8")
    return DeploymentView(
        batches=batches,
        rows=rows,
        int8_delivered=flag(int8, "delivered"),
        int8_reason=words(int8, "reason"),
        int8_asked=any(row.key == "onnx_int8" for row in rows),
        details=[(key, plain(value)) for key, value in flatten(section(record, "export")) if key],
    )


def _change(accuracy: float | None, eager: Result | None) -> float | None:
    return None if accuracy is None or eager is None else accuracy - eager.value


def _gains(benchmark: dict[str, Any]) -> dict[tuple[str | None, int | None], float]:
    """Return how many times as fast as PyTorch eager each (runtime, batch) is, as the benchmark's ratios say."""
    return {
        (words(row, "b"), whole(row, "batch")): ratio
        for row in table(benchmark, "ratios")
        if row.get("a") == _EAGER and (ratio := number(row, "median")) is not None
    }


@dataclass(frozen=True)
class ParityRow:
    """One comparison on one split."""

    split: str
    n: int | None
    difference: float | None
    relative: float | None
    flips: int | None
    ties: int | None
    accuracy_a: float | None
    accuracy_b: float | None
    accuracy_difference: float | None
    passed: bool | None


@dataclass(frozen=True)
class LayerError:
    """A layer and the error that INT8 brings at it."""

    name: str
    error: float | None
    bar: Markup


@dataclass(frozen=True)
class Comparison:
    """One artifact against PyTorch."""

    key: str
    rows: list[ParityRow]
    passed: bool | None
    delivered: bool | None
    reason: str | None
    stages: Markup | None
    first_bad_stage: str | None
    layers: list[LayerError]

    @property
    def verdict(self) -> bool | None:
        """Whether the artifact is delivered, or where that was not recorded, whether it holds."""
        return self.passed if self.delivered is None else self.delivered


@dataclass(frozen=True)
class ParityView:
    """The parity section."""

    fp32: Comparison | None
    int8: Comparison | None
    resize: list[tuple[str, str]]

    def comparisons(self) -> list[Comparison]:
        """Return the comparisons that were made."""
        return [found for found in (self.fp32, self.int8) if found is not None]


def parity_view(record: dict[str, Any]) -> ParityView | None:
    """Return the parity section, or ``None`` where no export was compared."""
    parity = section(record, "parity")
    if not parity:
        return None
    resize = [(key, _resize_figure(value)) for key, value in flatten(section(parity, "in_graph_resize")) if key]
    tolerance = number(section(record, "export"), "tolerance")
    return ParityView(_comparison(parity, "fp32", tolerance), _comparison(parity, "int8", tolerance), resize)


def _resize_figure(value: Any) -> str:
    return error_size(value) if isinstance(value, float) else plain(value)


def _comparison(parity: dict[str, Any], precision: str, tolerance: float | None) -> Comparison | None:
    """Return one artifact's comparison; ``tolerance`` as the export recorded it, None draws no limit."""
    found = section(parity, precision)
    if not found:
        return None
    rows = [_parity_row(split, section(found, split)) for split in ("validation", "test") if section(found, split)]
    decided = next((row.passed for row in rows if row.split == "validation"), None)
    first_bad = words(found, "first_bad_stage")
    stages = []
    for row in table(found, "stages"):
        name, relative = str(row.get("stage")), number(row, "relative")
        # What is done to pixels is held to levels of grey, not to this tolerance.
        beyond = name not in STEPS and tolerance is not None and relative is not None and relative > tolerance
        stages.append((name, relative, beyond or name == first_bad))
    drawn = dot_chart(stages, limit=tolerance, ident="stages-caption") if stages and precision == "fp32" else None
    return Comparison(
        key="onnx_" + precision,
        rows=rows,
        passed=decided,
        delivered=flag(found, "delivered"),
        reason=words(found, "reason"),
        stages=drawn,
        first_bad_stage=first_bad,
        layers=_layer_errors(table(found, "layers")),
    )


def _parity_row(split: str, row: dict[str, Any]) -> ParityRow:
    return ParityRow(
        split=split,
        n=whole(row, "n"),
        difference=number(row, "max_abs_logit_difference"),
        relative=number(row, "relative"),
        flips=whole(row, "flips"),
        ties=whole(row, "ties"),
        accuracy_a=number(row, "accuracy_a"),
        accuracy_b=number(row, "accuracy_b"),
        accuracy_difference=number(row, "accuracy_difference"),
        passed=flag(row, "passed"),
    )


def _layer_errors(rows: Sequence[dict[str, Any]]) -> list[LayerError]:
    errors = [(str(row.get("layer")), number(row, "error")) for row in rows[:_MOST_LAYERS]]
    largest = max((error for _, error in errors if error is not None), default=0.0)
    return [LayerError(name, error, bar((error or 0.0) / largest if largest else 0.0, "bad")) for name, error in errors]


@dataclass(frozen=True)
class BenchmarkRow:
    """One runtime at one batch size; times in milliseconds."""

    runtime: str
    precision: str | None
    batch: int | None
    median: float | None
    p90: float | None
    p99: float | None
    speed: float | None
    calls: int | None


@dataclass(frozen=True)
class RatioRow:
    """How many times as fast ``b`` is as ``a``, with the interval over paired repeats."""

    a: str
    b: str
    batch: int | None
    median: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class BenchmarkView:
    """The benchmark section."""

    threads: int | None
    repeats: int | None
    warmup: int | None
    calls: int | None
    rows: list[BenchmarkRow]
    charts: list[tuple[int, str, Markup]]
    ratios: list[RatioRow]
    fastest: BenchmarkRow | None
    gain: float | None
    busy: bool


def benchmark_view(record: dict[str, Any]) -> BenchmarkView | None:
    """Return the benchmark section, or ``None`` where nothing was measured."""
    benchmark = section(record, "benchmark")
    if not benchmark:
        return None
    settings = section(benchmark, "settings")
    rows = [
        BenchmarkRow(
            runtime=str(row.get("runtime")),
            precision=words(row, "precision"),
            batch=whole(row, "batch"),
            median=number(row, "median_ms"),
            p90=number(row, "p90_ms"),
            p99=number(row, "p99_ms"),
            speed=number(row, "pictures_per_second"),
            calls=whole(row, "calls"),
        )
        for row in table(benchmark, "rows")
    ]
    rows.sort(key=lambda row: row.batch or 0)
    ratios = [
        RatioRow(
            str(row.get("a")),
            str(row.get("b")),
            whole(row, "batch"),
            number(row, "median"),
            number(row, "low"),
            number(row, "high"),
        )
        for row in table(benchmark, "ratios")
    ]
    ratios.sort(key=lambda row: row.batch or 0)
    threads = whole(benchmark, "threads")
    single = [row for row in rows if row.batch == 1 and row.median]
    fastest = min(single, key=lambda row: row.median or 0.0, default=None)
    return BenchmarkView(
        threads=threads,
        repeats=whole(settings, "repeats"),
        warmup=whole(settings, "warmup"),
        calls=whole(settings, "calls_per_repeat"),
        rows=rows,
        charts=_latency_charts(rows),
        ratios=ratios,
        fastest=fastest,
        gain=_gains(benchmark).get((fastest.runtime, 1)) if fastest else None,
        busy=_was_busy(record, settings, threads),
    )


def _was_busy(record: dict[str, Any], settings: dict[str, Any], threads: int | None) -> bool:
    """Return whether other work inflated the times, by the rule of the warning that the benchmark gave."""
    cores = whole(section(record, "environment"), "cores")
    taken = threads is not None and cores is not None and takes_cores(number(settings, "other_cores"), cores, threads)
    return taken or is_busy(number(settings, "load"))


def _latency_charts(rows: Sequence[BenchmarkRow]) -> list[tuple[int, str, Markup]]:
    charts = []
    for batch in sorted({row.batch for row in rows if row.batch is not None}):
        bars = [
            Latency(row.runtime, _STYLES.get(row.runtime, "speed"), row.median, row.p90, row.p99)
            for row in rows
            if row.batch == batch and row.median is not None
        ]
        if bars:
            ident = f"latency-{batch}"
            charts.append((batch, ident, latency_chart(bars, ident=ident)))
    return charts
