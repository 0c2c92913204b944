"""The scenarios measured for several contenders in turn: one repeat runs each of them, and begins with another one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from danlu.deploy.contenders import Contender
from danlu.deploy.intervals import median_interval, percentile, percentile_interval
from danlu.deploy.scenarios import (
    LATE_SHARE,
    Scenarios,
    find_rate,
    offline,
    poisson_arrivals,
    server,
    single_stream,
)

__all__ = ["in_turn", "measure_scenarios", "ratio"]

T = TypeVar("T")
Pictures = NDArray[np.uint8]

# Fewer repeats give no 95 % interval of a median.
_LEAST_REPEATS = 6
_MOST_REPEATS = 30
_WARMUP = 3
_SERVER_ROUNDS = 3
# Fewer arrivals have no 99th percentile, more tell nothing new.
_ARRIVALS = (100, 5000)
_SERVER_STEPS = 7
# A rate that held in the search and does not in the rounds is lowered so often, by a twentieth each time.
_RETRIES = 5


def in_turn(things: Sequence[T], repeats: int) -> Iterator[tuple[int, T]]:
    """Yield (repeat, thing), each thing once a repeat, every repeat beginning with the next one."""
    for repeat in range(repeats):
        first = repeat % len(things)
        for thing in [*things[first:], *things[:first]]:
            yield repeat, thing


def ratio(a: str, b: str, quotients: NDArray[np.float64], **more: Any) -> dict[str, Any]:
    """Return how many times as fast ``b`` is as ``a``: the median of the repeats' quotients, with its interval."""
    median, low, high = median_interval(quotients)
    return {"a": a, "b": b, **more, "median": median, "low": low, "high": high, "repeats": len(quotients)}


def measure_scenarios(
    contenders: Sequence[Contender], pictures: Pictures, scenarios: Scenarios, seconds: float
) -> dict[str, Any]:
    """Measure each scenario for about ``seconds``, longer where slow networks need it.

    Returns:
        ``settings``; ``rows`` by scenario: for *single-stream* ``median_ms``, ``p90_ms`` and ``p99_ms``, each with
        ``low`` and ``high`` (None where too few answers bound it), for *offline* ``pictures_per_second``, for *server*
        ``rate``, whether it ``holds``, and the latencies at it; ``ratios``, how many times as fast ``b`` is as ``a``.
    """
    measures = {"single-stream": _single_stream, "offline": _offline, "server": _server}
    rows: dict[str, Any] = {}
    ratios: list[dict[str, Any]] = []
    for name in scenarios.names:
        rows[name], compared = measures[name](contenders, pictures, scenarios, seconds)
        ratios += [{"scenario": name, **row} for row in compared]
    settings = {"batch": scenarios.batch, "bound_ms": scenarios.bound_ms, "rate": scenarios.rate}
    return {"settings": {**settings, "seed": scenarios.seed}, "rows": rows, "ratios": ratios}


Measured = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def _once(contender: Contender, pictures: Pictures) -> float:
    for _ in range(_WARMUP):
        begin = time.perf_counter()
        contender.answer(pictures)
        seconds = time.perf_counter() - begin
    return seconds


def _repeats(seconds: float, once: float) -> tuple[int, int]:
    """Return how many repeats fit into ``seconds``, and how many times ``once`` goes into one of them."""
    times = max(1, int(seconds / (_MOST_REPEATS * once)))
    return max(_LEAST_REPEATS, min(_MOST_REPEATS, int(seconds / (times * once)))), times


def _pairs(values: dict[str, NDArray[np.float64]], faster: Callable[[Any, Any], Any]) -> list[dict[str, Any]]:
    names = list(values)
    return [ratio(a, b, faster(values[a], values[b])) for i, a in enumerate(names) for b in names[i + 1 :]]


def _single_stream(contenders: Sequence[Contender], pictures: Pictures, wanted: Scenarios, seconds: float) -> Measured:
    once = sum(_once(contender, pictures[:1]) for contender in contenders)
    repeats, queries = _repeats(seconds, once)
    calls: dict[str, list[NDArray[np.float64]]] = {contender.name: [] for contender in contenders}
    for repeat, contender in in_turn(contenders, repeats):
        contender.answer(pictures[:1])  # the first call after another network finds cold caches
        calls[contender.name].append(single_stream(contender.answer, pictures, queries, wanted.seed + repeat))
    rows = []
    for contender in contenders:
        times = calls[contender.name]
        median, low, high = median_interval([np.median(burst) for burst in times])
        row: dict[str, Any] = {"runtime": contender.name, "precision": contender.precision}
        row |= _latencies(np.concatenate(times))
        row["median_ms"] = _figure(1000 * median, 1000 * low, 1000 * high)
        rows.append({**row, "calls": repeats * queries})
    medians = {name: np.array([np.median(burst) for burst in times]) for name, times in calls.items()}
    return rows, _pairs(medians, lambda a, b: a / b)


def _figure(value: float, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def _latencies(seconds: NDArray[np.float64]) -> dict[str, Any]:
    found = {}
    for name, percent in (("median_ms", 50), ("p90_ms", 90), ("p99_ms", 99)):
        found[name] = _figure(*(None if v is None else 1000 * v for v in percentile_interval(seconds, percent)))  # type: ignore[arg-type]
    return found


def _offline(contenders: Sequence[Contender], pictures: Pictures, wanted: Scenarios, seconds: float) -> Measured:
    first = pictures[np.arange(wanted.batch) % len(pictures)]
    once = sum(_once(contender, first) for contender in contenders)
    repeats, batches = _repeats(seconds, once)
    speeds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    count = batches * wanted.batch
    for repeat, contender in in_turn(contenders, repeats):
        contender.answer(first)
        speed = offline(contender.answer, pictures, count, wanted.batch, wanted.seed + repeat)
        speeds[contender.name].append(speed)
    rows = [
        {
            "runtime": contender.name,
            "precision": contender.precision,
            "pictures_per_second": _figure(*median_interval(speeds[contender.name])),
            "pictures": count,
            "repeats": repeats,
        }
        for contender in contenders
    ]
    return rows, _pairs({name: np.array(values) for name, values in speeds.items()}, lambda a, b: b / a)


def _server(contenders: Sequence[Contender], pictures: Pictures, wanted: Scenarios, seconds: float) -> Measured:
    bound = wanted.bound_ms / 1000
    slice_s = seconds / len(contenders) / (_SERVER_STEPS + _SERVER_ROUNDS)
    rates: dict[str, tuple[float | None, float]] = {}
    for contender in contenders:
        alone = _once(contender, pictures[:1])
        together = _once(contender, pictures[np.arange(wanted.batch) % len(pictures)])
        if wanted.rate is not None:
            rates[contender.name] = wanted.rate, math.inf
        elif alone > bound:
            rates[contender.name] = None, 1 / alone
        else:
            rates[contender.name] = _search(
                contender, pictures, wanted, max(1 / alone, wanted.batch / together), slice_s
            )
    found = _server_rounds(contenders, pictures, wanted, rates, slice_s)
    rows = []
    for contender in contenders:
        row: dict[str, Any] = {"runtime": contender.name, "precision": contender.precision}
        rate, latencies, calls = found[contender.name]
        row |= {"rate": rate, "bound_ms": wanted.bound_ms, "holds": False, "late": None, "arrivals": 0, "batch": None}
        if len(latencies):
            late = float((latencies > bound).mean())
            row |= {"holds": percentile(latencies, 99) <= bound, "late": late, "arrivals": len(latencies)}
            row |= {"batch": len(latencies) / calls, **_latencies(latencies)}
        rows.append(row)
    return rows, [] if wanted.rate is not None else _rate_ratios(rates)


def _arrivals(rate: float, seconds: float, seed: int) -> NDArray[np.float64]:
    least, most = _ARRIVALS
    return poisson_arrivals(rate, min(most, max(least, int(rate * seconds))), seed)


def _search(
    contender: Contender, pictures: Pictures, wanted: Scenarios, highest: float, seconds: float
) -> tuple[float | None, float]:
    bound = wanted.bound_ms / 1000

    def holds(rate: float) -> bool:
        arrivals = _arrivals(rate, seconds, wanted.seed)
        run = server(contender.answer, pictures, arrivals, wanted.batch, bound=bound)
        return not run.ended and percentile(run.latencies, 100 * (1 - LATE_SHARE)) <= bound

    return find_rate(holds, highest, _SERVER_STEPS)


def _server_rounds(
    contenders: Sequence[Contender],
    pictures: Pictures,
    wanted: Scenarios,
    rates: dict[str, tuple[float | None, float]],
    seconds: float,
) -> dict[str, tuple[float | None, NDArray[np.float64], int]]:
    """Let arrivals come at each one's rate, in turn; lower a rate that was found but does not hold."""
    found: dict[str, tuple[float | None, NDArray[np.float64], int]] = {}
    waiting = list(contenders)
    for attempt in range(1 + _RETRIES):
        runs: dict[str, list[Any]] = {contender.name: [] for contender in waiting}
        for repeat, contender in in_turn(waiting, _SERVER_ROUNDS) if waiting else ():
            rate = rates[contender.name][0]
            if rate is not None:
                contender.answer(pictures[:1])
                arrivals = _arrivals(rate, seconds, wanted.seed + 1 + repeat + attempt * _SERVER_ROUNDS)
                runs[contender.name].append(server(contender.answer, pictures, arrivals, wanted.batch))
        again = []
        for contender in waiting:
            rate = rates[contender.name][0]
            latencies = np.concatenate([run.latencies for run in runs[contender.name]] or [np.empty(0)])
            found[contender.name] = rate, latencies, sum(run.calls for run in runs[contender.name])
            held = not len(latencies) or percentile(latencies, 99) <= wanted.bound_ms / 1000
            if wanted.rate is None and rate is not None and not held and attempt < _RETRIES:
                rates[contender.name] = 0.95 * rate, rate
                again.append(contender)
        waiting = again
    return found


def _rate_ratios(rates: dict[str, tuple[float | None, float]]) -> list[dict[str, Any]]:
    """Return ratios of rates; each lies between the highest seen to hold and the lowest seen not to."""
    names = list(rates)
    ratios = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            (rate_a, failed_a), (rate_b, failed_b) = rates[a], rates[b]
            if rate_a and rate_b:
                bounds = {"low": rate_b / failed_a, "high": failed_b / rate_a}
                ratios.append({"a": a, "b": b, "median": rate_b / rate_a, **bounds, "repeats": 1})
    return ratios
