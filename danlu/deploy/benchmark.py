"""How fast a network answers: eager PyTorch and its artifacts, interleaved, with the same threads.

One repeat runs every runtime in turn, each for a short burst, and begins with another runtime each time; what slows the
machine for a while slows all of them. A ratio is taken within a repeat and its interval over repeats, so that it holds
although the absolute times drift. Times include everything from a uint8 array to probabilities.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.environment import usable_cores
from danlu.core.errors import InputError
from danlu.core.log import logger, progress
from danlu.core.seeds import integers
from danlu.deploy.artifact import ArtifactInfo
from danlu.deploy.runtimes.onnxruntime import OnnxRuntime
from danlu.deploy.subjects import threads_of

if TYPE_CHECKING:
    from danlu.data.load import Data
    from danlu.tasks.trained import Trained

__all__ = ["bench", "median_interval"]

BATCHES = (1, 32)
SECONDS = 6.0
REPEATS = 60
# Fewer repeats give no 95 % interval of a median.
_LEAST_REPEATS = 6
_BURST = 5
_WARMUP = 3
# Below this many calls a percentile is nearly the slowest call of all, and is not given.
_CALLS_FOR = {90: 10, 99: 100}
# From this load average a core on, other work inflates the times of whatever waits for all of its threads.
_BUSY = 1.5
_EAGER = "pytorch eager"

Pictures = NDArray[np.uint8]


@dataclass
class _Runner:
    """One runtime at work: what answers, what it executes, the seconds of each call by batch, in bursts."""

    name: str
    precision: str
    answer: Callable[[Pictures], Any]
    executed: dict[str, Any]
    bursts: dict[int, list[list[float]]] = field(default_factory=dict)


def bench(
    source: Path | str | Trained,
    data: Data | None = None,
    *,
    threads: int | None = None,
    batches: Sequence[int] = BATCHES,
    seconds: float = SECONDS,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Measure latency and throughput of a run in eager PyTorch and of its artifacts in ONNX Runtime.

    Args:
        source: a run folder or an open network (with every artifact its record names), or one artifact.
        data: feeds validation pictures; seeded noise when not given.
        threads: of every runtime; those the run's training found best when not given, else the usable cores.
        batches: pictures in one call.
        seconds: about how long all measurements take together; slow networks get fewer and shorter repeats, but
            at least six.
        repeats: at most so many.

    Returns:
        ``threads``; ``settings``; ``rows``: ``runtime``, ``precision`` executed, ``batch``, ``median_ms``, ``p90_ms``
        (None below 10 calls), ``p99_ms`` (below 100), ``pictures_per_second``, ``calls``; ``ratios``, how many times
        as fast ``b`` is as ``a``: ``median``, ``low``, ``high``, ``repeats``; ``executed`` by each. A run records them.

    Raises:
        InputError: no run or artifact, a run that was not exported, or an option below its least value.
    """
    if repeats < _LEAST_REPEATS or seconds <= 0 or not batches or min(batches) < 1:
        what = f"repeats {repeats}, seconds {seconds:g}, batches {list(batches)}"
        allowed = [f"repeats ≥ {_LEAST_REPEATS}, seconds > 0, batches ≥ 1"]
        raise InputError(what, where="benchmark", allowed=allowed)
    trained = _trained(source)
    threads = threads_of(trained, threads)
    runners, size, channels = _runners(source, trained, threads)
    pictures = _pictures(data, max(batches), size, channels)
    logger.info("benchmark: %s with %d threads", ", ".join(runner.name for runner in runners), threads)
    load = _load()
    with _measuring(trained is not None, threads), progress("benchmark", len(batches), "batches") as advance:
        for place, batch in enumerate(batches):
            _measure(runners, pictures[:batch], seconds / len(batches), repeats)
            advance(place + 1, f"batch {batch}")
    found = {
        "threads": threads,
        "settings": {
            "repeats": min(len(runner.bursts[batch]) for runner in runners for batch in batches),
            "calls_per_repeat": min(len(runner.bursts[batch][0]) for runner in runners for batch in batches),
            "warmup": _WARMUP,
            "seconds": seconds,
            "load": load,
            "pictures": "validation" if data is not None else "noise",
            "ratio": "time of a / time of b, median over repeats, with at least 95 % confidence",
        },
        "rows": [_row(runner, batch) for batch in batches for runner in runners],
        "ratios": [_ratio(a, b, batch) for batch in batches for i, a in enumerate(runners) for b in runners[i + 1 :]],
        "executed": {runner.name: runner.executed for runner in runners},
    }
    if trained is not None:
        trained.run.update_record(benchmark=found)
    return found


def _load() -> float | None:
    """Return the machine's load average per core, where it has one, and warn of a busy machine."""
    if not hasattr(os, "getloadavg"):
        return None
    load = os.getloadavg()[0] / usable_cores()
    if load > _BUSY:
        logger.warning("benchmark: the machine is busy (load %.1f per core), so times are inflated", load)
    return round(load, 2)


def _trained(source: Path | str | Trained) -> Trained | None:
    if not isinstance(source, Path | str):
        return source
    if Path(source).is_file() and Path(source).suffix.lower() != ".dlz":
        return None
    from danlu.tasks.trained import open_trained

    return open_trained(source)


def _runners(
    source: Path | str | Trained, trained: Trained | None, threads: int
) -> tuple[list[_Runner], tuple[int, int], int]:
    if trained is None:
        runtime = OnnxRuntime.load(Path(str(source)), threads=threads)
        info = ArtifactInfo.from_metadata(runtime.metadata, str(source))
        return [_artifact_runner(runtime, info.precision)], info.picture_size, info.channels
    artifacts = trained.run.read_record().get("artifacts") or {}
    paths = {name: trained.run.path / facts["file"] for name, facts in artifacts.items() if facts.get("file")}
    if not paths:
        raise InputError("has no artifact to measure", where=trained.run.name, mend="danlu export RUN")
    runners = [_eager_runner(trained, threads)]
    runners += [_artifact_runner(OnnxRuntime.load(path, threads=threads), name) for name, path in sorted(paths.items())]
    settings = trained.preprocess.settings
    return runners, settings.picture_size, settings.channels


def _artifact_runner(runtime: OnnxRuntime, name: str) -> _Runner:
    executed = runtime.describe()
    wanted = ["probabilities"]
    return _Runner(f"onnxruntime {name}", executed["precision"], lambda p: runtime.predict(p, wanted), executed)


def _eager_runner(trained: Trained, threads: int) -> _Runner:
    import torch

    network, task = trained.picture_model, trained.task

    def answer(pictures: Pictures) -> Any:
        with torch.inference_mode():
            return task.decode(network(torch.from_numpy(pictures))).numpy()

    executed = {"runtime": "pytorch", "version": torch.__version__, "threads": threads, "precision": "fp32"}
    return _Runner(_EAGER, "fp32", answer, executed)


def _pictures(data: Data | None, count: int, size: tuple[int, int], channels: int) -> Pictures:
    if data is None:
        shape = (count, *size, channels)
        return integers(256, "benchmark", np.arange(math.prod(shape))).astype(np.uint8).reshape(shape)
    from danlu.data.loader import Loader

    loader = Loader(data.validation, size, channels, cache_bytes=0)
    return loader.pictures(np.arange(count, dtype=np.int64) % len(data.validation)).copy()


@contextmanager
def _measuring(torch_too: bool, threads: int) -> Iterator[None]:
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


def _measure(runners: Sequence[_Runner], pictures: Pictures, seconds: float, repeats: int) -> None:
    """Fill each runner's bursts for this batch: at most ``repeats``, fewer when the time is up, but enough to judge."""
    batch = len(pictures)
    once = 0.0
    for runner in runners:
        runner.bursts[batch] = []
        for _ in range(_WARMUP):
            start = time.perf_counter()
            runner.answer(pictures)
            last = time.perf_counter() - start
        once += last
    # So many calls a burst that the least number of repeats fits into the time.
    burst = min(_BURST, max(1, int(seconds / (_LEAST_REPEATS * once)) - 1))
    begin = time.perf_counter()
    for repeat in range(repeats):
        if repeat >= _LEAST_REPEATS and time.perf_counter() - begin > seconds:
            break
        first = repeat % len(runners)
        for runner in [*runners[first:], *runners[:first]]:
            # The first call after another runtime finds cold caches and sleeping threads.
            runner.answer(pictures)
            times = []
            for _ in range(burst):
                start = time.perf_counter()
                runner.answer(pictures)
                times.append(time.perf_counter() - start)
            runner.bursts[batch].append(times)


def _row(runner: _Runner, batch: int) -> dict[str, Any]:
    calls = np.array(runner.bursts[batch]).ravel()
    median = float(np.median(calls))
    return {
        "runtime": runner.name,
        "precision": runner.precision,
        "batch": batch,
        "median_ms": 1000 * median,
        "p90_ms": _percentile_ms(calls, 90),
        "p99_ms": _percentile_ms(calls, 99),
        "pictures_per_second": batch / median,
        "calls": len(calls),
    }


def _percentile_ms(calls: NDArray[np.float64], percent: int) -> float | None:
    return 1000 * float(np.percentile(calls, percent)) if len(calls) >= _CALLS_FOR[percent] else None


def _ratio(a: _Runner, b: _Runner, batch: int) -> dict[str, Any]:
    of_a, of_b = (np.median(np.array(runner.bursts[batch]), axis=1) for runner in (a, b))
    median, low, high = median_interval(of_a / of_b)
    return {"a": a.name, "b": b.name, "batch": batch, "median": median, "low": low, "high": high, "repeats": len(of_a)}


def median_interval(values: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float, float]:
    """Return the median of ``values`` [n] and an interval for the true median that assumes no distribution.

    The interval lies between two order statistics: the chance that fewer than k of n values fall below the true median
    is binomial (Conover, Practical Nonparametric Statistics). With fewer than six values it is their whole range, whose
    confidence is lower than asked for.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    if n < 1:
        raise ValueError("no values")
    below, k = 0.0, 0
    while k < n // 2 and below + math.comb(n, k) / 2**n <= (1 - confidence) / 2:
        below += math.comb(n, k) / 2**n
        k += 1
    cut = max(k - 1, 0)
    return float(np.median(ordered)), float(ordered[cut]), float(ordered[n - 1 - cut])
