"""uvicorn's server, started warm and stopped without losing an answer: signals, reload, drain."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType

import uvicorn

from danlu.deploy.serve.app import make_app
from danlu.deploy.serve.service import Service
from danlu.deploy.serve.wire import make_protocol

__all__ = ["LongServer"]

_TELLING_SECONDS = 0.3


class LongServer(uvicorn.Server):
    """Serves until a signal comes.

    Args:
        service: what answers.
        reload: what SIGHUP does.
        ready: called once requests are taken.

    Attributes:
        caught: the signal that ended it, or None.
    """

    def __init__(self, service: Service, reload: Callable[[], Awaitable[object]], ready: Callable[[], None]) -> None:
        self.caught: int | None = None
        self._service, self._reload, self._ready = service, reload, ready
        self._reloads: set[asyncio.Future[object]] = set()
        self._guard = make_app(service)
        limits = service.settings.limits
        super().__init__(
            uvicorn.Config(
                self._guard,
                loop="asyncio",
                http=make_protocol(limits, service.metrics),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=int(limits.idle_seconds),
                timeout_graceful_shutdown=int(limits.drain_seconds),
                h11_max_incomplete_event_size=limits.header_bytes,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; the second signal does not wait."""
        self.caught = self.caught or sig
        self._drain()
        self.force_exit = self.should_exit
        self.should_exit = True

    def _drain(self) -> None:
        self._service.batcher.draining = self._guard.draining = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to signals while the server runs; uvicorn's own would raise them again at the end."""
        wanted = [signal.SIGINT, signal.SIGTERM, *([signal.SIGBREAK] if hasattr(signal, "SIGBREAK") else [])]
        if threading.current_thread() is not threading.main_thread():
            wanted = []
        before = {number: signal.signal(number, self.handle_exit) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port and begin to work."""
        await super().startup(sockets)
        self._service.batcher.start()
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._begin_reload)
        self._ready()

    def _begin_reload(self) -> None:
        # The loop itself holds tasks weakly only.
        task = asyncio.ensure_future(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer all that was let in, tell the others, and end the threads."""
        self._drain()
        # Who has just connected is still told to come again; a port that closes at once resets them unheard.
        await asyncio.sleep(0 if self.force_exit else _TELLING_SECONDS)
        await super().shutdown(sockets)
        await self._service.close()
