"""A server in a thread, and requests as plain as they come."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from danlu.deploy.serve.engine import Engine
from danlu.deploy.serve.server import make_server
from danlu.deploy.serve.service import Service
from danlu.deploy.serve.settings import ServeSettings, bind

ROOT = Path(__file__).parents[3]
RAW = "application/vnd.danlu.uint8"


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON; not a number is no JSON."""
        return json.loads(self.body, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))


class Client:
    """Requests to one port of this machine."""

    def __init__(self, port: int, token: str | None = None) -> None:
        self.port, self.token = port, token

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> Reply:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        own = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            connection.request(method, path, body, {**own, **(headers or {})})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            connection.close()

    def predict(self, body: bytes, kind: str = "image/png", path: str = "/v1/predict", **headers: str) -> Reply:
        """Send one body of pictures."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", path, body, {"Content-Type": kind, **named})

    def raw(self, data: bytes, timeout: float = 10.0) -> bytes:
        """Send bytes as they are and return all that comes back until the server closes or ``timeout`` passes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(data)
            return read_all(connection)


class Heard(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one message."""
        self.lines.append(record.getMessage())


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the other side closes, or nothing more comes in time."""
    found = b""
    with contextlib.suppress(OSError):
        while chunk := connection.recv(65536):
            found += chunk
    return found


@contextlib.contextmanager
def running(engine: Engine, settings: ServeSettings | None = None) -> Iterator[tuple[Client, Service]]:
    """Serve an engine in a thread of this process."""
    settings = settings or ServeSettings(port=0)
    service, listening = Service(engine, settings), bind(settings)
    port = listening.getsockname()[1]
    up = threading.Event()

    async def again() -> None:
        return None

    server = make_server(service, settings, listening, again, lambda address: up.set())
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    assert up.wait(20)
    try:
        yield Client(port, settings.token), service
    finally:
        server.should_exit = True
        thread.join(20)
        left = _under_way(server, thread) if thread.is_alive() else ""
        listening.close()
        assert not left, left


def _under_way(server: Any, thread: threading.Thread) -> str:
    """Say what keeps a server from ending."""
    state = server.server_state
    connections = [
        f"{each.client}: closing {each.transport.is_closing()}, {each.conn.their_state}, {each.conn.our_state}, "
        f"{each.scope and each.scope['path']}"
        for each in state.connections
    ]
    frame = sys._current_frames().get(thread.ident or 0)
    stack = traceback.format_stack(frame) if frame else []
    return "\n".join(["the server does not end", *connections, *map(str, state.tasks), *stack])


@contextlib.contextmanager
def process(artifact: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], Client]]:
    """Serve an artifact by the command line, in a process of its own."""
    port = free_port()
    command = [sys.executable, "-m", "danlu", "serve", str(artifact), "--port", str(port), *arguments]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
    client = Client(port)
    try:
        wait_for(client, served)
        yield served, client
    finally:
        if served.poll() is None:
            served.kill()
        served.communicate()


def wait_for(client: Client, served: subprocess.Popen[str], seconds: float = 60.0) -> None:
    """Wait until the server takes connections; its own words where it ended instead."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if served.poll() is not None:
            raise AssertionError(f"exit {served.returncode}: {served.communicate()[1]}")
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", client.port), timeout=1).close()
            return
        time.sleep(0.02)
    raise AssertionError("the server did not start")


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def encoded(pixels: Any, form: str = "PNG", **options: Any) -> bytes:
    """Return a picture file for uint8 pixels [H, W] or [H, W, C]."""
    array = np.asarray(pixels, dtype=np.uint8)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def form_of(files: list[tuple[str, bytes]], field: str = "pictures") -> tuple[bytes, str]:
    """Return a multipart body and its content type."""
    edge = "danlu-edge-5d1f"
    parts = b""
    for name, data in files:
        shown = name.replace('"', "%22")
        head = f'--{edge}\r\nContent-Disposition: form-data; name="{field}"; filename="{shown}"\r\n\r\n'
        parts += head.encode() + data + b"\r\n"
    return parts + f"--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}"
