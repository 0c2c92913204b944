"""The scenarios against what queueing theory knows, on a clock that only moves when something is done."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from danlu.core.errors import InputError
from danlu.deploy.intervals import percentile
from danlu.deploy.rounds import in_turn, measure_scenarios
from danlu.deploy.scenarios import Scenarios, find_rate, offline, poisson_arrivals, server, single_stream

PICTURES = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)


class World:
    """A clock, a pause and a network that takes ``fixed + each * pictures`` seconds."""

    def __init__(self, fixed: float, each: float = 0.0) -> None:
        self.now, self.fixed, self.each = 0.0, fixed, each
        self.batches: list[int] = []
        self.seen: list[int] = []

    def clock(self) -> float:
        self.now += 1e-8
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds + 1e-9

    def answer(self, pictures: NDArray[np.uint8]) -> None:
        self.batches.append(len(pictures))
        self.seen += pictures.ravel().tolist()
        self.now += self.fixed + self.each * len(pictures)

    def serve(self, arrivals: NDArray[np.float64], most: int, bound: float | None = None) -> Any:
        return server(self.answer, PICTURES, arrivals, most, bound=bound, clock=self.clock, wait=self.wait)


def test_arrivals_are_a_poisson_process() -> None:
    n, rate = 20_000, 250.0
    arrivals = poisson_arrivals(rate, n, seed=5)
    gaps = np.diff(arrivals, prepend=0.0)
    assert (gaps >= 0).all()
    assert gaps.mean() == pytest.approx(1 / rate, rel=0.03)
    # Kolmogorov-Smirnov distance from the exponential distribution, 1 in 10,000 by chance.
    ordered = 1 - np.exp(-rate * np.sort(gaps))
    places = np.arange(n)
    assert max((ordered - places / n).max(), ((places + 1) / n - ordered).max()) < 2.23 / math.sqrt(n)
    # As many arrivals in a second vary as their mean, and gaps know nothing of one another.
    counts = np.histogram(arrivals, bins=np.arange(0, arrivals[-1], 0.1))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.15)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 4 / math.sqrt(n)


def test_arrivals_depend_on_the_seed_alone() -> None:
    assert np.array_equal(poisson_arrivals(10, 50, 1), poisson_arrivals(10, 50, 1))
    assert np.array_equal(poisson_arrivals(10, 50, 1), poisson_arrivals(10, 99, 1)[:50])
    assert not np.array_equal(poisson_arrivals(10, 50, 1), poisson_arrivals(10, 50, 2))


def test_single_pictures_are_timed_one_by_one() -> None:
    world = World(0.003)
    seconds = single_stream(world.answer, PICTURES, 40, seed=1, clock=world.clock)
    assert seconds == pytest.approx(np.full(40, 0.003), abs=1e-6)
    assert world.batches == [1] * 40
    assert set(world.seen) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("count", "batch", "batches"), [(12, 4, [4, 4, 4]), (7, 4, [4, 3]), (3, 8, [3])])
def test_offline_counts_every_picture_once(count: int, batch: int, batches: list[int]) -> None:
    world = World(0.001, 0.002)
    speed = offline(world.answer, PICTURES, count, batch, clock=world.clock)
    assert world.batches == batches
    assert speed == pytest.approx(count / (len(batches) * 0.001 + count * 0.002), rel=1e-4)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_queue_waits_as_long_as_theory_says(share: float) -> None:
    """Poisson arrivals, fixed service, one server: the mean wait of Pollaczek and Khinchine."""
    service = 0.004
    world = World(service)
    run = world.serve(poisson_arrivals(share / service, 40_000, seed=2), most=1)
    waits = run.latencies - service
    assert run.calls == 40_000
    assert waits.min() > -1e-6
    assert waits.mean() == pytest.approx(service * share / (2 * (1 - share)), rel=0.12)
    assert (waits < 1e-5).mean() == pytest.approx(1 - share, abs=0.03)  # arrivals see the server idle


def test_a_server_that_falls_behind_cannot_hide_it() -> None:
    """Ten times too many arrivals: the last waits nearly for all the work before it, though each call was fast."""
    world = World(0.010)
    run = world.serve(poisson_arrivals(1000, 500, seed=1), most=1)
    assert run.latencies[-1] == pytest.approx(500 * 0.010 - 0.5, rel=0.1)
    assert run.seconds == pytest.approx(5.0, rel=0.02)


def test_what_waits_is_taken_together() -> None:
    world = World(0.010, 0.0001)
    run = world.serve(poisson_arrivals(1000, 2000, seed=1), most=32)
    assert sum(world.batches) == 2000
    assert max(world.batches) <= 32
    assert run.calls == len(world.batches) < 400
    assert percentile(run.latencies, 99) < 0.05
    assert world.seen[:7] == [0, 1, 2, 3, 4, 0, 1]


@pytest.mark.parametrize(("count", "late"), [(100, 2), (300, 4), (99, 1)])
def test_hopeless_rates_are_given_up(count: int, late: int) -> None:
    """More than one in a hundred late, and no arrival sooner."""
    world = World(0.010)
    run = world.serve(np.arange(count) * 1e-4, most=1, bound=0.015)
    assert run.ended
    assert int((run.latencies > 0.015).sum()) == late
    held = World(0.010).serve(np.arange(count) * 0.02, most=1, bound=0.015)
    assert not held.ended
    assert len(held.latencies) == count


@given(st.floats(1.0, 1e4), st.floats(0.02, 0.99))
@settings(max_examples=100, deadline=None)
def test_the_rate_that_holds_is_found(highest: float, share: float) -> None:
    threshold, asked = share * highest, []

    def holds(rate: float) -> bool:
        asked.append(rate)
        return rate <= threshold

    held, failed = find_rate(holds, highest, steps=12)
    assert held is not None
    assert held in asked
    assert held <= threshold <= failed
    assert failed - held <= 0.02 * failed or len(asked) == 12
    assert len(asked) <= 12


def test_no_rate_holds() -> None:
    assert find_rate(lambda rate: False, 64.0, 20) == (None, 1.0)
    assert find_rate(lambda rate: True, 64.0, 20)[0] > 62  # type: ignore[operator]


@pytest.mark.parametrize(
    "wrong",
    [
        {"names": ("multi",)},
        {"batch": 0},
        {"rate": 0.0},
        {"rate": math.nan},
        {"bound_ms": -1.0},
        {"bound_ms": math.inf},
    ],
)
def test_bad_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"allowed"):
        Scenarios(**wrong)


@given(st.integers(1, 5), st.integers(1, 12))
def test_every_turn_has_everyone_and_begins_with_another(things: int, repeats: int) -> None:
    names = list("abcde"[:things])
    turns = list(in_turn(names, repeats))
    for repeat in range(repeats):
        turn = [name for at, name in turns if at == repeat]
        assert sorted(turn) == names
        assert turn[0] == names[repeat % things]


def test_scenarios_of_real_contenders(lenet: tuple[Path, dict[str, Any]]) -> None:
    from danlu.deploy.contenders import open_contenders

    contenders = open_contenders([lenet[0] / "model.onnx", lenet[0] / "model.int8.onnx"], 1)
    pictures = np.zeros((8, *contenders[0].size, 1), np.uint8)
    found = measure_scenarios(contenders, pictures, Scenarios(batch=8), 0.3)
    names = [contender.name for contender in contenders]
    for name in ("single-stream", "offline", "server"):
        assert [row["runtime"] for row in found["rows"][name]] == names
    for row in found["rows"]["single-stream"]:
        assert row["median_ms"]["value"] <= row["p90_ms"]["value"] <= row["p99_ms"]["value"]
    for row in found["rows"]["server"]:
        assert row["holds"]
        assert row["p99_ms"]["value"] <= row["bound_ms"] == 100
        assert row["rate"] > 0
    assert [(r["scenario"], r["a"], r["b"]) for r in found["ratios"]] == [(s, *names) for s in found["rows"]]
    assert all(0 < r["low"] <= r["median"] <= r["high"] for r in found["ratios"])


def test_a_bound_nobody_holds_is_told(lenet: tuple[Path, dict[str, Any]]) -> None:
    from danlu.deploy.contenders import open_contenders

    contenders = open_contenders([lenet[0] / "model.onnx"], 1)
    pictures = np.zeros((2, *contenders[0].size, 1), np.uint8)
    found = measure_scenarios(contenders, pictures, Scenarios(("server",), bound_ms=1e-3), 0.1)
    (row,) = found["rows"]["server"]
    assert (row["rate"], row["holds"], row["arrivals"]) == (None, False, 0)
    found = measure_scenarios(contenders, pictures, Scenarios(("server",), rate=2000.0, bound_ms=1e-3), 0.1)
    (row,) = found["rows"]["server"]
    assert (row["rate"], row["holds"]) == (2000.0, False)
    assert row["late"] == 1.0
