"""The three ways a network is asked, as MLPerf Inference has them. Needs numpy alone.

- *single stream*: one picture at a time, the next when the last is answered: latency.
- *offline*: all pictures are there from the beginning: pictures a second.
- *server*: single pictures arrive at random, by a Poisson process, and wait in a queue: the highest rate at which 99 of
  100 are answered within a bound that is counted from their arrival.

Source: Reddi et al., "MLPerf Inference Benchmark", 2020, section III (https://arxiv.org/abs/1911.02549).
`benchmarks/loadgen.py` compares these with MLCommons' own load generator on the same network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.core.seeds import integers, uniform

__all__ = ["SCENARIOS", "Scenarios", "ServerRun", "find_rate", "offline", "poisson_arrivals", "server", "single_stream"]

SCENARIOS = ("single-stream", "offline", "server")
# A queue that answers late more often than this does not hold its bound.
LATE_SHARE = 0.01

Pictures = NDArray[np.uint8]
Answer = Callable[[Pictures], Any]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Scenarios:
    """Which scenarios to measure, and how.

    Attributes:
        names: some of ``SCENARIOS``.
        batch: pictures in one call, offline; the most the server takes from its queue at once.
        rate: arrivals a second in the server scenario; the highest that holds is searched when not given.
        bound_ms: what 99 of 100 arrivals wait at most, answer included.
        seed: of the order of the pictures and of the arrivals.
    """

    names: tuple[str, ...] = SCENARIOS
    batch: int = 32
    rate: float | None = None
    bound_ms: float = 100.0
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [name for name in self.names if name not in SCENARIOS]:
            raise InputError(f"unknown scenario {unknown[0]!r}", where="--scenario", allowed=SCENARIOS)
        if self.batch < 1:
            raise InputError(f"batch = {self.batch}", where="--batch", allowed=["1 and more"])
        if self.rate is not None and not 0 < self.rate < 1e6:
            raise InputError(f"rate = {self.rate:g}", where="--rate", allowed=["above 0, below 1,000,000 a second"])
        if not 0 < self.bound_ms < 1e6:
            raise InputError(f"bound = {self.bound_ms:g} ms", where="--bound-ms", allowed=["above 0, below 1,000,000"])


def single_stream(
    answer: Answer, pictures: Pictures, queries: int, seed: int = 0, clock: Clock = time.perf_counter
) -> NDArray[np.float64]:
    """Ask for one picture of ``pictures`` [N, H, W, C] at a time; return the seconds of each of ``queries`` answers."""
    order = integers(len(pictures), "single stream", seed, np.arange(queries))
    seconds = np.empty(queries)
    for query, place in enumerate(order.tolist()):
        picture = pictures[place : place + 1]
        begin = clock()
        answer(picture)
        seconds[query] = clock() - begin
    return seconds


def offline(
    answer: Answer, pictures: Pictures, count: int, batch: int, seed: int = 0, clock: Clock = time.perf_counter
) -> float:
    """Answer ``count`` pictures drawn from ``pictures`` [N, H, W, C], ``batch`` at a time; return pictures a second.

    Gathering a batch counts, as it does for MLPerf's system under test.
    """
    order = integers(len(pictures), "offline", seed, np.arange(count))
    begin = clock()
    for start in range(0, count, batch):
        answer(pictures[order[start : start + batch]])
    return count / (clock() - begin)


def poisson_arrivals(rate: float, count: int, seed: int = 0) -> NDArray[np.float64]:
    """Return ``count`` arrival times in seconds of a Poisson process of ``rate`` a second: gaps are exponential."""
    gaps = -np.log1p(-uniform("arrivals", seed, np.arange(count))) / rate
    return np.asarray(np.cumsum(gaps), dtype=np.float64)


@dataclass(frozen=True)
class ServerRun:
    """What a stretch of arrivals met.

    Attributes:
        latencies: seconds from each arrival to its answer, in order of arrival.
        seconds: from the first moment to the last answer.
        calls: how often the network was asked; fewer than arrivals where the queue held several.
        ended: whether it was given up because too many were late already.
    """

    latencies: NDArray[np.float64]
    seconds: float
    calls: int
    ended: bool


def server(
    answer: Answer,
    pictures: Pictures,
    arrivals: NDArray[np.float64],
    most: int,
    *,
    bound: float | None = None,
    clock: Clock = time.perf_counter,
    wait: Callable[[float], None] = time.sleep,
) -> ServerRun:
    """Answer single pictures as they arrive: whatever waits is taken together, up to ``most`` pictures.

    A latency counts from the moment the picture was due, not from when the server looked, so that a server that falls
    behind cannot hide it. With ``bound`` (seconds) it stops as soon as more than one in a hundred was late.
    """
    count, done, calls, late = len(arrivals), 0, 0, 0
    latencies = np.empty(count)
    allowed = math.floor(LATE_SHARE * count)
    begin = clock()
    while done < count:
        now = clock() - begin
        waiting = int(np.searchsorted(arrivals, now, side="right")) - done
        if waiting < 1:
            wait(float(arrivals[done]) - now)
            continue
        taken = min(waiting, most)
        answer(pictures[np.arange(done, done + taken) % len(pictures)])
        ended = clock() - begin
        latencies[done : done + taken] = ended - arrivals[done : done + taken]
        late += int((latencies[done : done + taken] > bound).sum()) if bound is not None else 0
        done, calls = done + taken, calls + 1
        if late > allowed:
            break
    return ServerRun(latencies[:done], clock() - begin, calls, done < count)


def find_rate(holds: Callable[[float], bool], highest: float, steps: int = 7) -> tuple[float | None, float]:
    """Halve (0, highest] ``steps`` times; return the highest rate seen to hold and the lowest seen not to.

    The first is None where not even a 64th of ``highest`` holds; the second is ``highest`` where nothing failed.
    """
    low, high = 0.0, highest
    for _ in range(steps):
        if not low and high <= highest / 64:
            break
        middle = (low + high) / 2
        if holds(middle):
            low = middle
        else:
            high = middle
        if low and high - low < 0.02 * high:
            break
    return low or None, high
