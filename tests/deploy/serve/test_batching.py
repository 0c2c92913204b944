"""The queue: who is admitted, what is merged, who is dropped. The runtime here is a clock."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from danlu.deploy.serve.batching import Batcher, Pace
from danlu.deploy.serve.metrics import Metrics
from danlu.deploy.serve.problems import Problem
from danlu.deploy.serve.settings import Limits


class Clock:
    """Answers a batch of ``n`` after ``one + each · (n - 1)`` seconds with each picture's first value.

    What must happen while a batch is computed cannot rest on seconds, which a busy machine stretches: between ``hold``
    and ``go`` a batch that has begun does not end.
    """

    def __init__(self, one: float, each: float) -> None:
        self.one, self.each = one, each
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.error: Exception | None = None
        self._free = threading.Event()
        self.go()

    def hold(self) -> None:
        """Let no batch end."""
        self._free.clear()

    def go(self) -> None:
        """Let batches end."""
        self._free.set()

    async def begun(self, count: int = 1) -> None:
        """Wait until so many batches have begun."""
        while len(self.batches) < count:
            await asyncio.sleep(0.001)

    def __call__(self, pictures: Any, outputs: Sequence[str]) -> dict[str, Any]:
        self.threads.add(threading.get_ident())
        self.batches.append(len(pictures))
        time.sleep(self.one + self.each * (len(pictures) - 1))
        self._free.wait()
        if self.error is not None:
            raise self.error
        return {name: pictures[:, 0, 0, 0].astype(np.float32) for name in outputs}

    def batcher(self, **limits: Any) -> Batcher:
        """Return a queue before this clock, whose pace is known."""
        return Batcher(self, Pace(self.one, self.one + self.each), Limits(**limits), Metrics())


def pictures(*values: int) -> Any:
    return np.array(values, np.uint8)[:, None, None, None] + np.zeros((1, 2, 2, 1), np.uint8)


async def one(batcher: Batcher, *values: int, wait: float = 20.0) -> list[float]:
    """Go the way of a request."""
    ticket = batcher.admit(len(values))
    try:
        answered = await batcher.submit(ticket, pictures(*values), ["p"], time.perf_counter() + wait)
        return [float(value) for value in answered.outputs["p"]]
    finally:
        batcher.release(ticket)


def within(batcher: Batcher, work: Any) -> Any:
    """Run ``work()`` on a loop of its own, between start and stop."""

    async def whole() -> Any:
        batcher.start()
        try:
            return await asyncio.wait_for(work(), 20)
        finally:
            await batcher.stop()

    return asyncio.run(whole())


def test_each_gets_its_own_answer_and_cheap_work_is_merged() -> None:
    clock = Clock(0.02, 0.0)
    batcher = clock.batcher(patience=50)

    async def work() -> None:
        found = await asyncio.gather(*(one(batcher, value, value + 1) for value in range(0, 80, 2)))
        assert found == [[value, value + 1] for value in range(0, 80, 2)]

    within(batcher, work)
    assert len(clock.batches) < 20
    assert max(clock.batches) <= 32
    assert len(clock.threads) == 1


def test_work_that_does_not_pay_is_not_merged() -> None:
    clock = Clock(0.01, 0.01)
    batcher = clock.batcher(patience=50)

    async def work() -> None:
        await asyncio.gather(*(one(batcher, value) for value in range(12)))

    within(batcher, work)
    assert set(clock.batches) == {1}


def test_pictures_of_other_sizes_are_not_merged() -> None:
    clock = Clock(0.01, 0.0)
    batcher = clock.batcher(patience=50)

    async def other(value: int) -> float:
        ticket = batcher.admit(1)
        given = np.full((1, 2 + value % 2, 2, 1), value, np.uint8)
        answered = await batcher.submit(ticket, given, ["p"], time.perf_counter() + 9)
        batcher.release(ticket)
        return float(answered.outputs["p"][0])

    async def work() -> None:
        assert await asyncio.gather(*(other(value) for value in range(10))) == list(range(10))

    within(batcher, work)


def test_b68_the_queue_is_bounded_in_time_and_says_when_to_come_again() -> None:
    clock = Clock(0.05, 0.05)
    batcher = clock.batcher(patience=1.2)

    async def work() -> tuple[int, int, int]:
        done, refused, slowest = 0, 0, 0

        async def client() -> None:
            nonlocal done, refused, slowest
            begin = len(clock.batches)
            try:
                await one(batcher, 7)
            except Problem as problem:
                refused += problem.status == 503 and int(problem.headers["retry-after"]) >= 1
            else:
                done += 1
                slowest = max(slowest, len(clock.batches) - begin)

        clients = []
        for _ in range(150):  # five times what the clock can do
            clients.append(asyncio.ensure_future(client()))
            await asyncio.sleep(0.01)
        await asyncio.gather(*clients)
        return done, refused, slowest

    done, refused, slowest = within(batcher, work)
    assert done >= 20
    assert refused >= 80
    assert done + refused == 150
    assert slowest <= 3, "more batches than the one before it and its own came before an answer"
    assert batcher.pictures == 0


def test_the_queue_is_bounded_in_pictures_too() -> None:
    batcher = Clock(0.05, 0.0).batcher(patience=1e9, queue=40)

    async def work() -> None:
        tickets = [batcher.admit(1) for _ in range(40)]
        with pytest.raises(Problem, match="overloaded") as caught:
            batcher.admit(1)
        assert caught.value.status == 503
        batcher.release(tickets[0])
        batcher.admit(1)

    within(batcher, work)


def test_a_large_request_is_let_in_alone_and_is_no_wall() -> None:
    clock = Clock(0.01, 0.01)
    batcher = clock.batcher()

    async def work() -> None:
        clock.hold()
        large = asyncio.ensure_future(one(batcher, *range(50)))
        await clock.begun()
        small = asyncio.ensure_future(one(batcher, 9))
        await asyncio.sleep(0)
        clock.go()
        assert await small == [9]
        assert await large == list(range(50))

    within(batcher, work)
    assert clock.batches == [32, 18, 1]


def test_b68_who_left_is_not_computed() -> None:
    clock = Clock(0.1, 0.1)
    batcher = clock.batcher(patience=100)

    async def work() -> None:
        clock.hold()
        first = asyncio.ensure_future(one(batcher, 1))
        await clock.begun()
        gone = [asyncio.ensure_future(one(batcher, value)) for value in range(2, 12)]
        await asyncio.sleep(0)
        assert batcher.pictures == 11
        for task in gone:
            task.cancel()
        clock.go()
        assert await first == [1]
        assert await one(batcher, 42) == [42]

    within(batcher, work)
    assert clock.batches == [1, 1]
    assert batcher.pictures == 0


def test_the_deadline_ends_the_wait() -> None:
    clock = Clock(0.3, 0.3)
    batcher = clock.batcher(patience=100)

    async def work() -> None:
        clock.hold()
        first = asyncio.ensure_future(one(batcher, 1))
        await clock.begun()
        with pytest.raises(Problem) as caught:
            await one(batcher, 2, wait=0.05)
        assert caught.value.status == 504
        clock.go()
        assert await first == [1]

    within(batcher, work)
    assert clock.batches == [1]


def test_b67_the_worker_outlives_an_error() -> None:
    clock = Clock(0.001, 0.0)
    batcher = clock.batcher()

    async def work() -> None:
        clock.error = RuntimeError("secret path /home/x")
        with pytest.raises(Problem) as caught:
            await one(batcher, 1)
        assert caught.value.status == 500
        assert "secret" not in caught.value.detail
        clock.error = None
        assert await one(batcher, 2) == [2]

    within(batcher, work)


def test_a_stopping_server_lets_nobody_in() -> None:
    batcher = Clock(0.01, 0.0).batcher()
    batcher.draining = True
    with pytest.raises(Problem, match="stopping") as caught:
        batcher.check(1)
    assert caught.value.status == 503
    assert "retry-after" in caught.value.headers
    assert batcher.admit(1).count == 1  # let in before the server was told to stop


def test_the_pace_is_learnt() -> None:
    pace = Pace(0.01, 0.02)
    for _ in range(60):
        pace.learn(1, 0.1)
        pace.learn(11, 0.2)
    assert pace.seconds(1) == pytest.approx(0.1, rel=0.05)
    assert pace.seconds(11) == pytest.approx(0.2, rel=0.1)
    pace = Pace(0.01, 0.0)
    assert pace.seconds(32) >= pace.seconds(1) > 0
