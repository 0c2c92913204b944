"""The connection itself: uvicorn's HTTP/1.1 protocol with times and numbers it does not limit by itself.

uvicorn waits for ever for a client that sends its headers slowly or does not read its answer, and takes any number of
connections.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from danlu.deploy.serve.guard import HEADERS
from danlu.deploy.serve.metrics import Metrics
from danlu.deploy.serve.problems import CONTENT_TYPE, Problem
from danlu.deploy.serve.settings import Limits

__all__ = ["Connection", "make_protocol"]


def _raw(problem: Problem) -> bytes:
    """Return a whole answer, for connections that have no request."""
    document, body = problem.document(), problem.body()
    headers = {**HEADERS, **problem.headers, "content-type": CONTENT_TYPE, "content-length": str(len(body))}
    lines = [f"HTTP/1.1 {problem.status} {document['title']}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "connection: close", "", ""]).encode("latin-1") + body


class Connection(H11Protocol):
    """One connection; :func:`make_protocol` gives it its limits.

    Attributes:
        limits: times and numbers.
        metrics: counts what is refused.
    """

    limits: Limits
    metrics: Metrics
    _slow: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _full = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or answer that there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self.metrics.connections_refused.add()
            self._full = True
            transport.write(_raw(Problem(503, "too many connections", retry_after=1)))
            transport.close()
            return
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget its timers."""
        self._expect_nothing()
        self._read_on()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and time what is no request under way."""
        if self._full or self.transport.is_closing():
            return
        super().data_received(data)
        # A request that is being answered is timed by the guard; bytes outside one are headers, or what is left of
        # a body that nobody wanted.
        if self.cycle is not None and not self.cycle.response_complete:
            self._expect_nothing()
        elif self._slow is None:
            self._expect_headers()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._expect_nothing()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.limits.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._read_on()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with an error document."""
        self.metrics.refused.add("malformed")
        if self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete:
            self.transport.abort()  # half an answer cannot be taken back
            return
        self.transport.write(_raw(Problem(400, "this is no HTTP/1.1 request, or its headers are too long")))
        self.transport.close()

    def _expect_headers(self) -> None:
        self._slow = self.loop.call_later(self.limits.header_seconds, self._too_slow)

    def _expect_nothing(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _read_on(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _too_slow(self) -> None:
        self.metrics.refused.add("slow")
        self._slow = None
        if not self.transport.is_closing():
            self.transport.write(_raw(Problem(408, f"no headers within {self.limits.header_seconds:g} s")))
            self.transport.close()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Never called: none are served."""
        raise AssertionError("no websockets are served")


def make_protocol(limits: Limits, metrics: Metrics) -> type[H11Protocol]:
    """Return the class of connections for :class:`uvicorn.Config`."""
    return type("LimitedConnection", (Connection,), {"limits": limits, "metrics": metrics})
