"""The verbs that measure how fast networks answer: bench, and export --best."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danlu import terminal
from danlu.core.errors import InputError
from danlu.verbs.common import Common, Flag, Output, Whole, WholeOrNone

__all__ = ["bench", "export_best"]


def bench(
    *subjects: Path,
    threads: WholeOrNone = None,
    batch: list[Whole] | None = None,
    seconds: float = 6.0,
    scenario: list[str] | None = None,
    rate: float | None = None,
    bound_ms: float | None = None,
    parts: Flag = False,
    eager: list[str] | None = None,
    cold: WholeOrNone = None,
    seed: Whole = 0,
    common: Common | None = None,
) -> Output:
    """Measure how fast runs and artifacts answer: interleaved, with the same threads; medians, p90, p99, ratios.

    Parameters
    ----------
    subjects
        A run folder (PyTorch and its artifacts), an artifact, or several of them.
    threads
        Processor threads of every runtime; those the training measured as the fastest when not given.
    batch
        Pictures in one call; may be given several times. By default 1 and 32.
    seconds
        About how long all batches take together, and each scenario.
    scenario
        single-stream, offline, server or all; may be given several times. The last of --batch is offline's.
    rate
        Arrivals a second in the server scenario; the highest that holds is searched when not given.
    bound_ms
        What 99 of 100 arrivals wait at most in the server scenario; by default 100.
    parts
        Also time the network alone, and the way from a picture's file to the name of its class.
    eager
        fp32 or bf16, the precision of runs in PyTorch; may be given twice.
    cold
        Processes to open each one anew in, for load time, first answer and memory. By default 3, for a single run none.
    seed
        Of the order of pictures and of the arrivals.
    """
    from danlu.deploy.opening import is_artifact

    if not subjects:
        raise InputError("nothing to measure", where="bench", mend="danlu bench RUN, or danlu bench ARTIFACT…")
    alone = len(subjects) == 1 and not is_artifact(subjects[0])
    options: dict[str, Any] = {
        "batches": batch or (1, 32),
        "seconds": seconds,
        "scenarios": _scenarios(scenario, (batch or [32])[-1], rate, bound_ms, seed),
        "spans": ("network", "arrays", "files") if parts else ("arrays",),
        "eager": tuple(eager or ["fp32"]),
        "cold": (0 if alone else 3) if cold is None else cold,
    }
    document = _measured(subjects, alone, threads, options)
    return Output(document, "\n\n".join(_text(document)))


def _measured(subjects: tuple[Path, ...], alone: bool, threads: int | None, options: dict[str, Any]) -> dict[str, Any]:
    """Measure a single run with its data, which then keeps the figures, and all else with noise."""
    if alone:
        from danlu.single import bench_run

        return bench_run(subjects[0], threads=threads, **options)
    from danlu.deploy.benchmark import bench as measure

    return measure(subjects, threads=threads, **options)


def export_best(run: Path, others: Mapping[str, Any], **options: Any) -> Output:
    """Do ``danlu export RUN --best``; ``others`` are options that leave nothing to choose."""
    from danlu.single import best_run

    if given := [name for name, value in others.items() if value]:
        raise InputError(f"{given[0]} with --best leaves nothing to choose", mend="give one of them")
    document = best_run(run, **{key: value for key, value in options.items() if value is not None})
    tried = [
        {**row, "options": ", ".join(row["options"] or ()) or None, "drop": row["drop"] and f"{row['drop']:.2f}"}
        for row in document["tried"]
    ]
    folder = options.get("out") or run
    drop = document["drop"]
    lines = [
        f"best       {folder / document['artifact']}",
        f"runtime    {document['runtime']}, executes {document['precision']}, threads {document['threads']}",
        f"validation loses {drop:.2f} points, {document['max_drop']:g} are allowed",
        f"settings   {folder / 'best.json'}",
    ]
    ratios = terminal.rows([_ratio(row, "batch") for row in document["ratios"]])
    return Output(document, "\n\n".join([terminal.rows(tried), ratios, "\n".join(lines)]))


def _scenarios(names: list[str] | None, batch: int, rate: float | None, bound_ms: float | None, seed: int) -> Any:
    from danlu.deploy.scenarios import SCENARIOS, Scenarios

    if not {"all", "server"} & set(names or []):
        for option, given in {"--rate": rate, "--bound-ms": bound_ms}.items():
            if given is not None:
                raise InputError("is for the server scenario", where=option, mend="add --scenario server")
    if not names:
        return None
    chosen = SCENARIOS if "all" in names else tuple(dict.fromkeys(names))
    return Scenarios(chosen, batch, rate, 100.0 if bound_ms is None else bound_ms, seed)


def _text(document: Mapping[str, Any]) -> list[str]:
    told = [terminal.rows(document["rows"])]
    if ratios := document["ratios"]:
        told.append(terminal.rows([_ratio(row, "batch") for row in ratios]))
    if spans := document.get("spans"):
        kept = ("span", "runtime", "batch", "median_ms", "p90_ms", "pictures_per_second")
        told.append(terminal.rows([{key: row[key] for key in kept} for row in spans]))
    scenarios = document.get("scenarios", {"rows": {}, "ratios": []})
    for name, rows in scenarios["rows"].items():
        told.append(f"{name}\n" + terminal.rows([{key: _figure(value) for key, value in row.items()} for row in rows]))
    if ratios := scenarios["ratios"]:
        told.append(terminal.rows([_ratio(row, "scenario") for row in ratios]))
    if cold := document.get("cold"):
        told.append("opened anew\n" + terminal.rows(cold))
    settings = document["settings"]
    others = settings.get("other_cores")
    busy = "" if others is None else f", other work took {others:.2f} cores"
    told.append(f"threads: {document['threads']}, pictures: {settings['pictures']}{busy}")
    return told


def _ratio(row: Mapping[str, Any], by: str) -> dict[str, Any]:
    return {"a": row["a"], "b": row["b"], by: row[by], "b is faster": _figure_text(row["median"], row) + "×"}


def _figure(value: Any) -> Any:
    """Return a figure with its interval as one text; all else as it is."""
    if not isinstance(value, Mapping):
        return value
    return _figure_text(value["value"], value)


def _figure_text(value: float, ends: Mapping[str, Any]) -> str:
    low, high = ("?" if ends[key] is None else terminal.figure(ends[key]) for key in ("low", "high"))
    return f"{terminal.figure(float(value))} ({low}–{high})"
