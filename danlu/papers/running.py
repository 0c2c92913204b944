"""Run rows of the ledger seed by seed; what is done is kept, and the same command goes on from there."""

from __future__ import annotations

import shutil
import subprocess
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from danlu.core import files
from danlu.core.environment import describe_environment
from danlu.core.errors import CheckFailed, InputError, Stopped
from danlu.core.log import logger
from danlu.papers.depends import changes, dependencies
from danlu.papers.kinds import Attempt, Measured, NotRunnable, OutOfTime, measure
from danlu.papers.rows import FOLDER, Paper, Row, find_paper, find_row, read_results
from danlu.papers.states import state_of, summary
from danlu.papers.verdict import prediction_interval

__all__ = ["reproduce"]


def reproduce(
    paper: str,
    *,
    row: str | None = None,
    seeds: int | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    budget: float | None = None,
    out: Path | None = None,
    data: Path | None = None,
    record: bool = False,
) -> list[dict[str, Any]]:
    """Run a paper's rows, compare them with what was published and keep what was found.

    Args:
        paper: a folder of ``danlu/papers``.
        row: one of its rows; all when not given.
        seeds: how many; by default as many as each row's verdict needs.
        seed: the first of them.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:<i>`` or ``mps``.
        threads: processor threads; measured when not given.
        budget: seconds after which nothing new is begun and a training pauses at the end of its epoch.
        out: where results and run folders go; by default ``./runs/reproduce``.
        data: a folder that holds the data set in its own format, instead of the catalogue's copy.
        record: keep the results as the ones that are shipped; for maintainers.

    Returns:
        one document a row: :meth:`danlu.papers.states.State.to_json` with ``prediction_interval``, that of the shipped
        seeds for the mean of those of ``out`` (None where fewer than two are shipped), and ``inside``.

    Raises:
        InputError: unknown names, or a folder that cannot be written.
        Stopped: a signal came; what was done is kept.
    """
    found = find_paper(paper)
    rows = [find_row(found, row)] if row is not None else list(found.rows)
    if seeds is not None and not 1 <= seeds <= 1000:
        raise InputError(f"--seeds {seeds}", allowed=["1 to 1000"])
    if data is not None and len({one.data for one in rows if one.data}) != 1:
        raise InputError("--data is for rows of one data set", mend="choose one by --row")
    work = (Path("runs") / "reproduce" if out is None else out) / found.id
    target = FOLDER / found.id if record else work
    files.check_writable(target)
    deadline = None if budget is None else time.monotonic() + budget
    for one in rows:
        attempts = [
            Attempt(found, one, number, work / one.id, device, threads, data, deadline)
            for number in range(seed, seed + (seeds or one.seeds))
        ]
        _run_row(found, one, attempts if one.kind != "analytic" else attempts[:1], target)
    results = read_results(target)
    return [_with_interval(found, one, results) for one in rows]


def _run_row(paper: Paper, row: Row, attempts: list[Attempt], target: Path) -> None:
    """Run the seeds that are not recorded yet; record each as soon as it is done."""
    stale: dict[str, Any] | None = None
    entry: dict[str, Any] | None = read_results(target)["rows"].get(row.id)
    if entry is not None and (changed := changes(entry["dependencies"], paper, row)):
        logger.info("%s %s: %s changed since it was recorded: run anew", paper.id, row.id, ", ".join(changed))
        entry, stale = None, entry
    depends = dependencies(paper, row) if entry is None else entry["dependencies"]
    entry = entry or {"dependencies": depends, "runs": []}
    done = {run["seed"] for run in entry["runs"]}
    # The mark keeps a training of other settings from being gone on with.
    mark = files.sha256_bytes(repr(sorted(depends.items())).encode())[:8]
    for attempt in (replace(one, folder=one.folder / f"seed-{one.seed}-{mark}") for one in attempts):
        if attempt.seed in done:
            continue
        begin = time.perf_counter()
        before = entry.get("unfinished", {})
        spent = before.get("seconds", 0.0) if before.get("seed") == attempt.seed else 0.0
        try:
            measured = measure(attempt)
        except (OutOfTime, NotRunnable, Stopped) as error:
            seconds = round(spent + time.perf_counter() - begin, 1)
            entry["unfinished"] = {"seed": attempt.seed, "seconds": seconds, "why": str(error)}
            # What was measured before stays, marked as stale, until something of today takes its place.
            _write(target, row, entry if stale is None or entry["runs"] else stale, {})
            if isinstance(error, Stopped):
                raise
            logger.info("%s %s: %s", paper.id, row.id, error)
            return
        entry.pop("unfinished", None)
        _check_data(entry, measured, row)
        environment = _environment(attempt)
        key = files.sha256_bytes(repr(sorted(environment.items())).encode())[:8]
        run = _run_record(attempt, measured, spent + time.perf_counter() - begin)
        entry["runs"] = sorted([*entry["runs"], {**run, "environment": key}], key=lambda one: int(one["seed"]))
        entry |= summary([one["value"] for one in entry["runs"]])
        _write(target, row, entry, {key: environment})
        if row.kind != "analytic":
            logger.info("%s %s, seed %d: %s = %s", paper.id, row.id, attempt.seed, row.metric, measured.value)


def _run_record(attempt: Attempt, measured: Measured, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {"seed": attempt.seed, "value": measured.value, "seconds": round(seconds, 1)}
    if measured.data_hash is not None:
        found["data_hash"] = measured.data_hash
    if measured.facts:
        found["facts"] = dict(measured.facts)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return {**found, "commit": _commit(), "finished": day}


def _check_data(entry: dict[str, Any], measured: Measured, row: Row) -> None:
    """Refuse to average seeds of different data.

    Raises:
        CheckFailed: the data set is another one than that of the seeds recorded before.
    """
    hashes = {run["data_hash"] for run in entry["runs"] if "data_hash" in run}
    if hashes and hashes != {measured.data_hash}:
        raise CheckFailed(f"{row.id}: measured on other data than the seeds before; give another --out")


def _write(target: Path, row: Row, entry: dict[str, Any], environments: dict[str, Any]) -> None:
    """Replace one row of the folder's ``result.json``; a second process may be doing the same for another row."""
    import filelock

    target.mkdir(parents=True, exist_ok=True)
    guard = target / ".result.lock"
    with filelock.FileLock(guard):
        results = read_results(target)
        results["rows"] = dict(sorted({**results["rows"], row.id: entry}.items()))
        known = {**results["environments"], **environments}
        used = {run["environment"] for one in results["rows"].values() for run in one["runs"]}
        results["environments"] = {key: known[key] for key in sorted(used)}
        files.write_json(target / "result.json", results)


def _environment(attempt: Attempt) -> dict[str, Any]:
    found = describe_environment()
    packages = found["packages"]
    kept = {key: found[key] for key in ("danlu", "python", "system", "processor", "cores")}
    kept |= {name: packages[name] for name in ("torch", "numpy") if name in packages}
    if attempt.row.kind == "analytic":
        return {**kept, "device": "none: counted"}
    import torch

    from danlu.train.precision import choose_device

    device = choose_device(attempt.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {**kept, "device": name}


@cache
def _commit() -> str | None:
    """Return the commit of the source, with ``+`` where the source has changes of its own; None outside of git."""
    root = FOLDER.parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)

    head = git("rev-parse", "--short=12", "HEAD").stdout.strip()
    changed = git("diff", "--quiet", "HEAD", "--", "danlu", ":!danlu/papers/*/result.json").returncode
    return (head + ("+" if changed else "")) or None


def _with_interval(paper: Paper, row: Row, results: dict[str, Any]) -> dict[str, Any]:
    state = state_of(paper, row, results)
    document = {**state.to_json(), "words": state.words, "prediction_interval": None, "inside": None}
    shipped = read_results(paper.folder)["rows"].get(row.id, {}).get("runs", [])
    values = [run["value"] for run in shipped]
    if row.kind != "analytic" and state.n and (interval := prediction_interval(values, state.n)):
        document["prediction_interval"] = list(interval)
        document["inside"] = interval[0] <= float(state.ours or 0.0) <= interval[1]
    return document
