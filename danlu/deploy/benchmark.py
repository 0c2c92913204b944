"""How fast a network answers: eager PyTorch and its artifacts, interleaved, with the same threads.

One repeat runs every contender in turn, each for a short burst, and begins with another one each time; what slows the
machine for a while slows all of them. A ratio is taken within a repeat and its interval over repeats, so that it holds
although the absolute times drift. Times include everything from a uint8 array to probabilities; ``spans`` asks for
more of the way, or for less.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.core.log import logger, progress
from danlu.core.records import RunFolder
from danlu.core.seeds import integers
from danlu.data.load import Data, opened_data
from danlu.deploy.cold import cold_facts
from danlu.deploy.contenders import Contender, compare_values, open_contenders
from danlu.deploy.intervals import percentile
from danlu.deploy.machine import Watch, load_average
from danlu.deploy.opening import is_artifact
from danlu.deploy.rounds import measure_scenarios, ratio
from danlu.deploy.scenarios import Scenarios
from danlu.deploy.subjects import threads_of

if TYPE_CHECKING:
    from danlu.tasks.trained import Trained

    Source = Path | str | RunFolder | Trained

__all__ = ["SPANS", "bench", "measure_in_turn", "measuring", "pictures_of", "row_of"]

BATCHES = (1, 32)
SECONDS = 6.0
REPEATS = 60
SPANS = ("network", "arrays", "files")
"""Parts of the way: normalised floats to logits; uint8 arrays to probabilities; picture files to class names."""
# Fewer repeats give no 95 % interval of a median.
_LEAST_REPEATS = 6
_BURST = 5
_WARMUP = 3
# Below this many calls a percentile is nearly the slowest call of all, and is not given.
_CALLS_FOR = {90: 10, 99: 100}
_COMPARED = 8
_MOST_PICTURES = 64
_MOST_BATCH = 4096

Pictures = NDArray[np.uint8]
Key = tuple[int, str]


def bench(
    sources: Source | Sequence[Source],
    data: Data | Path | str | None = None,
    *,
    threads: int | None = None,
    batches: Sequence[int] = BATCHES,
    seconds: float = SECONDS,
    repeats: int = REPEATS,
    scenarios: Scenarios | None = None,
    spans: Sequence[str] = ("arrays",),
    eager: Sequence[str] = ("fp32",),
    cold: int = 0,
) -> dict[str, Any]:
    """Measure latency and throughput of runs in eager PyTorch and of artifacts in their runtimes.

    Args:
        sources: a run folder (its path, or what training returned) or an open network (with every artifact its record
            names), an artifact, or several.
        data: feeds validation pictures; a name or folder is split as for the run; seeded noise when not given.
        threads: of every runtime; those the run's training found best when not given, else the usable cores.
        batches: pictures in one call.
        seconds: about how long all batches take together, and each scenario.
        repeats: at most so many; slow networks get fewer and shorter ones, but at least six.
        scenarios: see :mod:`danlu.deploy.scenarios`; none when not given.
        spans: ``arrays``, and beside it ``network`` or ``files``, see ``SPANS``.
        eager: precisions of runs in eager PyTorch, ``fp32`` and ``bf16``.
        cold: processes to open each contender anew in, for load time, first answer and memory; none when 0.

    Returns:
        ``threads``; ``settings``; ``rows``: ``precision`` executed, ``median_ms``, ``p90_ms`` (None below 10 calls),
        ``p99_ms`` (below 100), ``pictures_per_second``; ``ratios``, how many times as fast ``b`` is as ``a``, with
        ``low`` and ``high``; ``executed`` by each; where asked for, ``spans``, ``scenarios`` and ``cold``. The record
        of a run that stands alone keeps all of it.

    Raises:
        InputError: no run or artifact, or an option below its least value.
        CheckFailed: a contender cannot be opened anew.
    """
    _check_options(batches, seconds, repeats, spans, cold)
    trained = _only_run(listed := _listed(sources))
    threads = threads_of(trained, threads)
    contenders = open_contenders([trained] if trained else listed, threads, eager)
    count = min(max(*batches, _COMPARED), _MOST_PICTURES)
    pictures = pictures_of(_opened(data, trained), count, contenders[0].size, contenders[0].channels)
    logger.info("benchmark: %s with %d threads", ", ".join(c.name for c in contenders), threads)
    found, load, watch = dict[str, Any](), load_average(), Watch()
    with measuring(any(c.name.startswith("pytorch") for c in contenders), threads):
        compare_values(contenders, pictures[:_COMPARED])
        _measure_batches(contenders, pictures, batches, seconds / len(batches), repeats, spans)
        if scenarios is not None:
            found["scenarios"] = measure_scenarios(contenders, pictures, scenarios, seconds)
    others = watch.check(threads)
    if cold:
        found["cold"] = _opened_anew(contenders, threads, cold)
    document = {"threads": threads, **_tables(contenders, batches, spans), **found}
    document["settings"] |= {"seconds": seconds, "load": load, "other_cores": others}
    document["settings"]["pictures"] = "validation" if data is not None else "noise"
    if trained is not None:
        trained.run.update_record(benchmark=document)
    return document


def _measure_batches(
    contenders: Sequence[Contender],
    pictures: Pictures,
    batches: Sequence[int],
    seconds: float,
    repeats: int,
    spans: Sequence[str],
) -> None:
    with progress("benchmark", len(batches), "batches") as advance:
        for place, batch in enumerate(batches):
            measure_in_turn(contenders, pictures[np.arange(batch) % len(pictures)], seconds, repeats, spans)
            advance(place + 1, f"batch {batch}")


def _opened_anew(contenders: Sequence[Contender], threads: int, times: int) -> list[dict[str, Any]]:
    logger.info("benchmark: each opened anew, %d times", times)
    facts = cold_facts([contender.source for contender in contenders], threads, times)
    return [{"runtime": c.name, **told} for c, told in zip(contenders, facts, strict=True)]


def _check_options(batches: Sequence[int], seconds: float, repeats: int, spans: Sequence[str], cold: int) -> None:
    if repeats < _LEAST_REPEATS or not 0 < seconds < math.inf or not batches or min(batches) < 1 or cold < 0:
        what = f"repeats {repeats}, seconds {seconds:g}, batches {list(batches)}, cold {cold}"
        allowed = [f"repeats ≥ {_LEAST_REPEATS}, seconds > 0, batches ≥ 1, cold ≥ 0"]
        raise InputError(what, where="benchmark", allowed=allowed)
    if len(set(batches)) < len(batches) or max(batches) > _MOST_BATCH:
        what = f"batches {list(batches)}"
        raise InputError(what, where="benchmark", allowed=[f"each once, at most {_MOST_BATCH:,}"])
    if unknown := [span for span in spans if span not in SPANS]:
        raise InputError(f"unknown part {unknown[0]!r}", where="benchmark", allowed=SPANS)


def _tables(contenders: Sequence[Contender], batches: Sequence[int], spans: Sequence[str]) -> dict[str, Any]:
    """Return ``settings``, ``rows``, ``ratios``, ``executed`` and, where more than arrays were timed, ``spans``."""
    keys = [(batch, "arrays") for batch in batches]
    tables: dict[str, Any] = {
        "settings": {
            "repeats": min(len(contender.bursts[key]) for contender in contenders for key in keys),
            "calls_per_repeat": min(len(contender.bursts[key][0]) for contender in contenders for key in keys),
            "warmup": _WARMUP,
            "ratio": "time of a / time of b, median over repeats, with at least 95 % confidence",
        },
        "rows": [row_of(contender, key) for key in keys for contender in contenders],
        "ratios": [_ratio(a, b, key) for key in keys for i, a in enumerate(contenders) for b in contenders[i + 1 :]],
        "executed": {contender.name: contender.executed for contender in contenders},
    }
    if set(spans) - {"arrays"}:
        timed = [(batch, span) for batch in batches for span in SPANS if span in {*spans, "arrays"}]
        tables["spans"] = [
            {"span": key[1], **row_of(contender, key)}
            for key in timed
            for contender in contenders
            if key in contender.bursts
        ]
    return tables


def _listed(
    sources: Source | Sequence[Source],
) -> list[Path | str | Trained]:
    listed = [sources] if isinstance(sources, Path | str) or not isinstance(sources, Sequence) else list(sources)
    return [one.path if isinstance(one, RunFolder) else one for one in listed]


def _only_run(sources: Sequence[Path | str | Trained]) -> Trained | None:
    """Return the open network where the one source is a run; its record will keep what is measured."""
    if len(sources) != 1:
        if not sources:
            raise InputError("nothing to measure", where="benchmark", mend="give a run or an artifact")
        return None
    (source,) = sources
    if not isinstance(source, Path | str):
        return source
    if is_artifact(Path(source)):
        return None
    from danlu.tasks.trained import open_trained

    return open_trained(source)


def pictures_of(data: Data | None, count: int, size: tuple[int, int], channels: int) -> Pictures:
    """Return ``count`` validation pictures uint8 [count, *size, channels], or seeded noise where there is no data."""
    if data is None:
        shape = (count, *size, channels)
        return integers(256, "benchmark", np.arange(math.prod(shape))).astype(np.uint8).reshape(shape)
    from danlu.data.loader import Loader

    loader = Loader(data.validation, size, channels, cache_bytes=0)
    return loader.pictures(np.arange(count, dtype=np.int64) % len(data.validation)).copy()


def _opened(data: Data | Path | str | None, trained: Trained | None) -> Data | None:
    seed = None if trained is None else trained.config["effective"]["data"].get("seed")
    return None if data is None else opened_data(data, seed)


@contextmanager
def measuring(torch_too: bool, threads: int) -> Iterator[None]:
    """Give PyTorch the same threads and full float32, and keep the garbage collector out of the times."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        if not torch_too:
            yield
            return
        from danlu.deploy.capture import full_precision, torch_threads

        with torch_threads(threads), full_precision():
            yield
    finally:
        if collecting:
            gc.enable()


def measure_in_turn(
    contenders: Sequence[Contender],
    pictures: Pictures,
    seconds: float,
    repeats: int,
    spans: Sequence[str] = ("arrays",),
) -> None:
    """Fill each contender's bursts for this batch: at most ``repeats``, fewer when time is up, but enough to judge."""
    entries = []
    once = 0.0
    for contender in contenders:
        for name in SPANS:
            span = contender.span(name) if name in {*spans, "arrays"} else None
            if span is None:
                continue
            fed = span.feed(pictures)
            for _ in range(_WARMUP):
                start = time.perf_counter()
                span.answer(fed)
                last = time.perf_counter() - start
            once += last
            bursts: list[list[float]] = []
            contender.bursts[len(pictures), name] = bursts
            entries.append((span.answer, fed, bursts))
    # So many calls a burst that the least number of repeats fits into the time.
    burst = min(_BURST, max(1, int(seconds / (_LEAST_REPEATS * once)) - 1))
    begin = time.perf_counter()
    for repeat in range(repeats):
        if repeat >= _LEAST_REPEATS and time.perf_counter() - begin > seconds:
            break
        first = repeat % len(entries)
        for answer, fed, bursts in [*entries[first:], *entries[:first]]:
            # The first call after another runtime finds cold caches and sleeping threads.
            answer(fed)
            times = []
            for _ in range(burst):
                start = time.perf_counter()
                answer(fed)
                times.append(time.perf_counter() - start)
            bursts.append(times)


def row_of(contender: Contender, key: Key) -> dict[str, Any]:
    """Return the figures of a contender for (batch, span), from its bursts."""
    calls = np.array(contender.bursts[key]).ravel()
    median = float(np.median(calls))
    return {
        "runtime": contender.name,
        "precision": contender.precision,
        "batch": key[0],
        "median_ms": 1000 * median,
        "p90_ms": _percentile_ms(calls, 90),
        "p99_ms": _percentile_ms(calls, 99),
        "pictures_per_second": key[0] / median,
        "calls": len(calls),
    }


def _percentile_ms(calls: NDArray[np.float64], percent: int) -> float | None:
    return 1000 * percentile(calls, percent) if len(calls) >= _CALLS_FOR[percent] else None


def _ratio(a: Contender, b: Contender, key: Key) -> dict[str, Any]:
    of_a, of_b = (np.median(np.array(contender.bursts[key]), axis=1) for contender in (a, b))
    return ratio(a.name, b.name, of_a / of_b, batch=key[0])
