"""Who is let in, what is computed together, who is dropped: the bounded queue in front of one runtime.

A queue that is bounded by length alone says little about time: eight tiny pictures wait a millisecond, eight requests
of 32 large ones a minute. Here a request is let in while what stands before it is predicted to take no longer than
``patience`` times its own work (or that of the longest request ahead, so that a batch is not a wall to all others). So
under any load an admitted request takes about ``1 + patience`` times what it takes alone, and memory is bounded; all
others are told at once, and when to come again. Requests are merged into one batch as long as the batch takes hardly
longer than its first request alone, which is measured, not assumed.

All methods run on the event loop; the runtime runs in one thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.deploy.serve.metrics import Metrics
from danlu.deploy.serve.problems import Problem
from danlu.deploy.serve.settings import Limits

__all__ = ["Answered", "Batcher", "Pace", "Ticket"]

Pictures = NDArray[np.uint8]
Outputs = dict[str, NDArray[Any]]

_WEIGHT = 0.2  # of the newest measurement
_LEAST_BATCH = 0.002  # seconds a merged batch may always take
_STRETCH = 1.25  # a merged batch may take so many times as long as its first request alone


class Pace:
    """How long ``count`` pictures take: a start and so much a picture, kept up to date by what was measured.

    Args:
        one: seconds of a batch of one.
        two: seconds of a batch of two.
    """

    def __init__(self, one: float, two: float) -> None:
        self.one = max(one, 1e-6)
        self.each = min(max(two - one, 0.02 * self.one), self.one)

    def seconds(self, count: int) -> float:
        """Return the predicted seconds of a batch of ``count``."""
        return self.one + self.each * max(0, count - 1)

    def learn(self, count: int, seconds: float) -> None:
        """Take a measured batch into account."""
        if count == 1:
            self.one += _WEIGHT * (max(seconds, 1e-6) - self.one)
        else:
            found = max((seconds - self.one) / (count - 1), 0.02 * self.one)
            self.each += _WEIGHT * (found - self.each)


@dataclass
class Ticket:
    """The place of an admitted request: held from the end of its body until it is answered or dropped."""

    count: int


@dataclass(frozen=True)
class Answered:
    """Outputs for one request's pictures, seconds it waited and seconds its batch took, pictures in that batch."""

    outputs: Outputs
    waited: float
    seconds: float
    batch: int


@dataclass
class _Work:
    ticket: Ticket
    pictures: Pictures
    outputs: tuple[str, ...]
    future: asyncio.Future[Answered]
    since: float


class Batcher:
    """The queue. ``answer(pictures, outputs)`` computes; it is called in a thread, one call at a time."""

    def __init__(
        self, answer: Callable[[Pictures, Sequence[str]], Outputs], pace: Pace, limits: Limits, metrics: Metrics
    ) -> None:
        self.pace, self.draining = pace, False
        self._answer, self._limits, self._metrics = answer, limits, metrics
        self._tickets: dict[int, Ticket] = {}
        self._queue: deque[_Work] = deque()
        self._wake = asyncio.Event()
        self._running: tuple[float, float, list[Ticket]] | None = None
        self._thread = ThreadPoolExecutor(1, "danlu-runtime")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work; called on the event loop."""
        self._task = asyncio.get_running_loop().create_task(self._work(), name="danlu-batches")

    async def stop(self) -> None:
        """Drop what waits and end the thread once it has finished its batch."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for work in self._queue:
            work.future.cancel()
        self._queue.clear()
        self._thread.shutdown(wait=True)

    @property
    def pictures(self) -> int:
        """Pictures admitted and not yet answered."""
        return sum(ticket.count for ticket in self._tickets.values())

    def check(self, count: int) -> None:
        """Refuse a request whose headers alone are known and that would find no place; it holds none afterwards.

        Raises:
            Problem: 503, the server stops, or there is no room now; with the seconds after which there will be.
        """
        if self.draining:
            self._metrics.refused.add("draining")
            raise Problem(503, "the server is stopping", retry_after=self._limits.drain_seconds)
        self._check_room(count)

    def admit(self, count: int) -> Ticket:
        """Give a place to a request of ``count`` pictures that has come whole, or refuse it.

        A server that stops still gives places: what it has let in by :meth:`check` is answered.

        Raises:
            Problem: 503 with the seconds after which there will be room.
        """
        self._check_room(count)
        ticket = Ticket(count)
        self._tickets[id(ticket)] = ticket
        return ticket

    def _check_room(self, count: int) -> None:
        ahead = [ticket.count for ticket in self._tickets.values()]
        # A request that nothing stands before is let in, however long it takes.
        if ahead:
            wait = self._wait()
            longest = self.pace.seconds(max(count, *ahead))
            allowed = max(self._limits.least_wait, self._limits.patience * longest)
            if wait > allowed or sum(ahead) + count > self._limits.queue:
                self._metrics.refused.add("overload")
                what = f"overloaded: {sum(ahead)} pictures are before this request"
                raise Problem(503, what, retry_after=wait - min(wait, allowed), mend="send it again later")

    def release(self, ticket: Ticket) -> None:
        """Give a place back: the request was answered, refused or left."""
        self._tickets.pop(id(ticket), None)

    def _wait(self) -> float:
        """Return the predicted seconds until all that was admitted is answered."""
        running = self._running[2] if self._running else []
        waiting = [t.count for t in self._tickets.values() if all(t is not other for other in running)]
        rest = 0.0
        if self._running:
            begin, predicted, _ = self._running
            # A batch that is late is expected to go on for a while.
            rest = max(predicted - (time.perf_counter() - begin), 0.1 * predicted)
        return rest + sum(self.pace.seconds(count) for count in waiting)

    async def submit(self, ticket: Ticket, pictures: Pictures, outputs: Sequence[str], deadline: float) -> Answered:
        """Return the outputs for uint8 pictures [B, H, W, C]; leaving early (cancellation) drops them from the queue.

        Args:
            ticket: from :meth:`admit`; released by the caller.
            pictures: of one size.
            outputs: names of outputs of the artifact.
            deadline: on the clock of ``time.perf_counter``.

        Raises:
            Problem: 504, the deadline passed; 500, the runtime failed.
        """
        now = time.perf_counter()
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._queue.append(_Work(ticket, pictures, tuple(outputs), future, now))
        self._wake.set()
        try:
            return await asyncio.wait_for(future, max(0.0, deadline - now))
        except TimeoutError:
            self._metrics.dropped.add("deadline")
            what = f"no answer within the deadline; {self.pictures} pictures are admitted"
            raise Problem(504, what, mend="send fewer pictures, or allow more time") from None

    def _take(self) -> list[_Work]:
        """Take what is computed next; those whose client left or whose deadline passed are dropped here."""
        chosen: list[_Work] = []
        total = 0
        while self._queue:
            work = self._queue[0]
            if work.future.done():
                self._queue.popleft()
                continue
            count = len(work.pictures)
            if chosen and not self._joins(work, chosen[0], total + count):
                break
            chosen.append(self._queue.popleft())
            total += count
        return chosen

    def _joins(self, work: _Work, first: _Work, total: int) -> bool:
        if total > self._limits.batch or work.outputs != first.outputs:
            return False
        if work.pictures.shape[1:] != first.pictures.shape[1:]:
            return False
        allowed = max(_STRETCH * self.pace.seconds(len(first.pictures)), _LEAST_BATCH)
        return self.pace.seconds(total) <= allowed

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            works = self._take()
            if not works:
                self._wake.clear()
                await self._wake.wait()
                continue
            count = sum(len(work.pictures) for work in works)
            begin = time.perf_counter()
            self._running = begin, self.pace.seconds(count), [work.ticket for work in works]
            try:
                outputs = await loop.run_in_executor(self._thread, self._compute, works)
            except Exception as error:
                self._fail(works, error)
            else:
                self._deliver(works, outputs, begin, time.perf_counter() - begin)
            finally:
                self._running = None

    def _compute(self, works: Sequence[_Work]) -> Outputs:
        """Run in the thread: one batch, or several where one request holds more than a batch."""
        pictures = works[0].pictures if len(works) == 1 else np.concatenate([work.pictures for work in works])
        step, names = self._limits.batch, works[0].outputs
        parts = [self._answer(pictures[start : start + step], names) for start in range(0, len(pictures), step)]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _fail(self, works: Sequence[_Work], error: Exception) -> None:
        for work in works:
            if not work.future.done():
                # An exception each: one that is raised twice would gather both tracebacks.
                told = Problem(error.status, error.detail) if isinstance(error, Problem) else None
                work.future.set_exception(told or Problem(500, f"the runtime failed ({type(error).__name__})"))

    def _deliver(self, works: Sequence[_Work], outputs: Outputs, begin: float, seconds: float) -> None:
        total = sum(len(work.pictures) for work in works)
        if total <= self._limits.batch:
            self.pace.learn(total, seconds)
        self._metrics.inference.observe(seconds)
        self._metrics.batches.observe(total)
        start = 0
        for work in works:
            end = start + len(work.pictures)
            if not work.future.done():
                own = {name: value[start:end] for name, value in outputs.items()}
                work.future.set_result(Answered(own, begin - work.since, seconds, total))
                self._metrics.waited.observe(begin - work.since)
            start = end
