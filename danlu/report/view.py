"""The whole report as plain values: what the page shows, read from a run's records. No markup of the page itself."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from danlu.core.files import sha256_file
from danlu.core.records import RunFolder
from danlu.report.fields import flatten, listing, number, section, table, whole, words
from danlu.report.figures import DASH, plain, shorten
from danlu.report.marks import interval
from danlu.report.view_data import DataView, data_view
from danlu.report.view_deploy import (
    BenchmarkView,
    DeploymentView,
    ParityView,
    benchmark_view,
    deployment_view,
    parity_view,
)
from danlu.report.view_results import (
    AnalysisView,
    EvaluationView,
    Result,
    analysis_view,
    evaluation_view,
    read_result,
)
from danlu.report.view_training import TrainingView, training_view

__all__ = ["EnvironmentView", "Report", "SettingRow", "make_view"]

_STAGES = ("data", "train", "evaluate", "analyze", "export", "benchmark", "report")

# What stands among the requested settings and is none, or stands elsewhere on the page.
_NO_SETTINGS = ("command", "lang", "verb")


@dataclass(frozen=True)
class SettingRow:
    """One setting: its dotted key, what was asked for and what took effect, as short text."""

    key: str
    requested: str | None
    effective: str | None
    why: str | None
    overridden: bool


@dataclass(frozen=True)
class EnvironmentView:
    """Machine and versions."""

    facts: list[tuple[str, str]]
    packages: list[tuple[str, str]]


@dataclass(frozen=True)
class Report:
    """All that the page shows. A section that was not run is ``None``."""

    language: str | None
    model: str | None
    dataset: str | None
    command: str | None
    finished: str | None
    alerts: list[tuple[str, dict[str, str]]]
    version: str | None
    accuracy: Result | None
    accuracy_mark: Markup | None
    correct: int | None
    stages: list[tuple[str, float]]
    seconds: float | None
    data: DataView | None
    training: TrainingView | None
    evaluation: EvaluationView | None
    analysis: AnalysisView | None
    deployment: DeploymentView | None
    parity: ParityView | None
    benchmark: BenchmarkView | None
    environment: EnvironmentView | None
    requested: list[SettingRow]
    settings: list[SettingRow]
    hashes: list[tuple[str, str]]


def make_view(run: RunFolder) -> Report:
    """Read the records of ``run`` and return what the report shows.

    Raises:
        InputError: ``config.json`` is missing, or a record is no readable JSON or of a newer schema.
    """
    config, record, log = run.read_config(), run.read_record(), run.read_log()
    effective, asked = section(config, "effective"), section(config, "requested")
    accuracy = read_result(record, "test", "accuracy")
    stages = [(str(row.get("name")), number(row, "seconds") or 0.0) for row in table(record, "stages")]
    requested, settings = _settings(config)
    model = words(section(effective, "model"), "name")
    training, parity = training_view(record, log, run.path), parity_view(record)
    language = words(asked, "lang")
    return Report(
        language=language if language in ("en", "zh") else None,
        model=model,
        dataset=words(section(effective, "data"), "name") or words(section(record, "data"), "name"),
        command=_command(asked.get("command")) or _command(record.get("command")),
        finished=_moment(words(section(record, "train"), "finished")),
        alerts=_alerts(training, parity),
        version=words(section(record, "environment"), "danlu"),
        accuracy=accuracy,
        accuracy_mark=_mark(accuracy),
        correct=round(accuracy.value * accuracy.n) if accuracy and accuracy.n else None,
        stages=stages,
        seconds=sum(seconds for _, seconds in stages) if stages else number(section(record, "train"), "seconds"),
        data=data_view(record),
        training=training,
        evaluation=evaluation_view(record, run.path),
        analysis=analysis_view(record),
        deployment=deployment_view(record),
        parity=parity,
        benchmark=benchmark_view(record),
        environment=_environment(record, effective),
        requested=requested,
        settings=settings,
        hashes=_hashes(run, record),
    )


def _alerts(training: TrainingView | None, parity: ParityView | None) -> list[tuple[str, dict[str, str]]]:
    """Return what must be said before anything else: (text key, its values)."""
    alerts = []
    if training is not None and not training.finished:
        alerts += [("alert_diverged", {"reason": e.details}) for e in training.events if e.what == "diverged"][-1:]
    if parity is not None and parity.fp32 is not None and parity.fp32.passed is False:
        alerts.append(("alert_fp32", {"stage": shorten(parity.fp32.first_bad_stage or DASH, 60)}))
    return alerts


def _moment(stamp: str | None) -> str | None:
    """Return an ISO 8601 moment as ``2026-01-31 09:05 UTC``; anything else as it is."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d)?Z", stamp or "")
    return f"{match[1]} {match[2]} UTC" if match else stamp


def _command(value: Any) -> str | None:
    if isinstance(value, list) and value:
        return shlex.join(str(word) for word in value)
    return value if isinstance(value, str) and value else None


def _mark(accuracy: Result | None) -> Markup | None:
    if accuracy is None or accuracy.low is None or accuracy.high is None:
        return None
    return interval(accuracy.value, accuracy.low, accuracy.high)


def _environment(record: dict[str, Any], effective: dict[str, Any]) -> EnvironmentView | None:
    found = section(record, "environment")
    if not found:
        return None
    machine = {**section(effective, "machine"), **found}
    chosen = [words(machine, "device"), words(machine, "gpu"), words(machine, "precision")]
    facts = [
        ("processor", words(found, "processor")),
        ("features", ", ".join(str(feature) for feature in listing(found, "cpu_features")) or None),
        ("cores", _text(whole(found, "cores"))),
        ("system", " · ".join(filter(None, (words(found, "system"), words(found, "machine")))) or None),
        ("computed_on", " · ".join(filter(None, chosen)) or None),
        ("threads", _text(whole(machine, "threads"))),
    ]
    versions = [("danlu", words(found, "danlu")), ("python", words(found, "python"))]
    packages = [*versions, *((str(k), _text(v)) for k, v in section(found, "packages").items())]
    return EnvironmentView(
        [(key, value) for key, value in facts if value], [(key, value) for key, value in packages if value]
    )


def _text(value: Any) -> str | None:
    return None if value is None else plain(value)


def _settings(config: dict[str, Any]) -> tuple[list[SettingRow], list[SettingRow]]:
    """Return the rows of what was asked for, and the rows of everything in effect."""
    effective = {key: _text(value) for key, value in flatten(section(config, "effective")) if key}
    reasons = {str(key): str(value) for key, value in section(config, "why").items()}
    asked = section(config, "requested")
    command = _command(asked.get("command")) or ""
    requested, touched = [], set[str]()
    for key, value in flatten({key: value for key, value in asked.items() if key not in _NO_SETTINGS}):
        if value is None or value is False or value in ([], {}) or (key.startswith("set.") and "overrides" in asked):
            continue
        target = _target(key, effective)
        reason = reasons.get(key) or reasons.get(key.rpartition(".")[2])
        typed = key.startswith(("overrides.", "set.")) or f"--{key.replace('_', '-')}" in command
        requested.append(SettingRow(key, _text(value), effective.get(target) if target else None, reason, typed))
        if target and typed:
            touched.add(target)
    explained = {row.key for row in requested if row.why}
    for key, reason in reasons.items():
        if key not in explained:
            target = _target(key, effective)
            requested.append(SettingRow(key, None, effective.get(target) if target else None, reason, False))
    everything = [SettingRow(key, None, value, None, key in touched) for key, value in effective.items()]
    return requested, everything


def _target(key: str, effective: dict[str, str | None]) -> str | None:
    """Return the effective setting a requested key decides: ``overrides.epochs`` → ``train.epochs``."""
    bare = key.removeprefix("overrides.").removeprefix("set.")
    named = [key for key in (bare, f"{bare}.name", f"machine.{bare}", f"train.{bare}") if key in effective]
    named += [key for key in effective if key.endswith(f".{bare}") and key not in named]
    # What was measured or derived says more than a setting that was left open.
    decided = [key for key in named if effective[key] not in (None, "auto")]
    return next(iter(decided or named), None)


def _hashes(run: RunFolder, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (what, SHA-256) of the records as they are now, and of the data and artifacts as they were recorded."""
    rows = [(path.name, sha256_file(path)) for path in _files(run)]
    for precision in ("fp32", "int8"):
        artifact = section(record, "artifacts", precision)
        file, digest = words(artifact, "file"), words(artifact, "sha256")
        if file and digest:
            rows.append((file, digest))
    return rows


def _files(run: RunFolder) -> Sequence[Any]:
    return [path for path in (run.config_path, run.log_path, run.record_path) if path.is_file()]
