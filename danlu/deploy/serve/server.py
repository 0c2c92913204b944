"""Start warm, serve, stop without losing an answer: ``danlu serve ARTIFACT``. No torch."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from danlu.core.errors import InputError, Stopped
from danlu.core.log import logger
from danlu.deploy.serve.engine import Engine
from danlu.deploy.serve.settings import Limits, ServeSettings, bind, make_settings

if TYPE_CHECKING:
    from danlu.deploy.serve.service import Service

__all__ = ["Server", "address_of", "check_installed", "make_server", "serve"]

_SWITCH_SECONDS = 0.0005
_PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}


class Server(Protocol):
    """What :func:`make_server` returns: uvicorn's server, and the signal that ended it."""

    caught: int | None
    should_exit: bool

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until it is told to stop."""
        ...


def check_installed() -> None:
    """Refuse to serve without the packages of the extra ``serve``.

    Raises:
        InputError: one of them is not installed.
    """
    for module, package in _PACKAGES.items():
        try:
            found = importlib.util.find_spec(module)
        except ImportError:
            found = None
        if found is None:
            raise InputError(f"{package} is not installed", where="serve", mend="pip install 'danlu[serve]'")


def serve(
    artifact: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    allow_hosts: Sequence[str] = (),
    threads: int | None = None,
    limits: Limits | None = None,
    started: Callable[[str], None] | None = None,
) -> None:
    """Answer requests with an artifact until a signal says to stop; what is under way then is still answered.

    SIGHUP loads the file again (not on Windows); the old artifact goes on answering where the new one cannot.

    Args:
        artifact: an ``.onnx`` file that ``danlu export`` wrote.
        host: the address to bind; anything but loopback needs a token.
        port: 0 takes a free one.
        token_file: holds the token; else the environment's ``DANLU_TOKEN``, else none.
        allow_hosts: further names a request's ``Host`` may have.
        threads: of the runtime; the usable cores when not given.
        limits: see :class:`~danlu.deploy.serve.settings.Limits`.
        started: called with the server's address once it takes requests.

    Raises:
        InputError: a package of the extra ``serve`` is missing, the address cannot be opened, or is open to others
            without a token, or the artifact cannot be served.
        Stopped: SIGINT or SIGTERM came and all was answered.
    """
    check_installed()
    # A thread that has computed waits so long for the interpreter while others are busy; 5 ms are many small answers.
    sys.setswitchinterval(_SWITCH_SECONDS)
    settings = make_settings(host, port, token_file=token_file, allow_hosts=allow_hosts, limits=limits)
    path = Path(artifact)
    # Tens of thousands of objects are made that stay: looking through them for garbage is a tenth of the start.
    gc.disable()
    # Reading, hashing and loading the file leave the interpreter free to import FastAPI meanwhile.
    try:
        with ThreadPoolExecutor(1) as loader:
            opening = loader.submit(Engine.open, path, threads)
            from danlu.deploy.serve.service import Service

            importlib.import_module("danlu.deploy.serve.lifecycle")
            engine = opening.result()
        gc.freeze()
    finally:
        gc.enable()
    listening = bind(settings)
    with contextlib.closing(listening):
        service = Service(engine, settings)
        server = make_server(service, settings, listening, lambda: service.reload(path, threads), started)
        server.run([listening])
    if server.caught is not None:
        name = signal.Signals(server.caught).name
        raise Stopped(f"stopped by {name}", server.caught)


def address_of(settings: ServeSettings, listening: socket.socket) -> str:
    """Return the address a browser on this machine opens."""
    port = listening.getsockname()[1]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{port}/"


def make_server(
    service: Service,
    settings: ServeSettings,
    listening: socket.socket,
    reload: Callable[[], Awaitable[object]],
    started: Callable[[str], None] | None = None,
) -> Server:
    """Return a server that is ready to ``run([listening])``; its ``caught`` is the signal that ended it, or None.

    ``reload`` is what SIGHUP does. Outside the main thread no signals are listened to.
    """
    from danlu.deploy.serve.lifecycle import LongServer

    _tell_of_errors()

    def ready() -> None:
        if started is not None:
            started(address_of(settings, listening))

    return LongServer(service, reload, ready)


def _tell_of_errors() -> None:
    """Send uvicorn's errors where ours go; its notes on every start and every odd request stay silent."""
    own = logging.getLogger("uvicorn")
    own.setLevel(logging.ERROR)
    own.propagate = False
    if not own.handlers:
        own.addHandler(logging.NullHandler())
    for handler in logger.handlers:
        if handler not in own.handlers:
            own.addHandler(handler)
