"""What stands before every route: host, origin, token, sizes and times of requests; headers of answers. Plain ASGI."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from danlu.core.log import logger
from danlu.deploy.serve.metrics import Metrics
from danlu.deploy.serve.problems import CONTENT_TYPE, Problem, unexpected
from danlu.deploy.serve.settings import ServeSettings

__all__ = ["HEADERS", "Guard"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "media-src 'self' blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
# What a visitor without a token may see: that the server is there, and the page's own files, which tell nothing of the
# model. A name outside this list needs the token, so a route that is added is closed until somebody opens it.
_OPEN = ("/health/live", "/health/ready", "/", "/page.css", "/page.js", "/draw.js", "/icon.svg")
_ROUTES = (*_OPEN, "/v1/predict", "/v1/explain", "/v1/model", "/metrics", "/openapi.json")
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_MOST_HEADERS = 100
# What is left of a refused body is read and thrown away for so long, so that the client can read its answer.
_LINGER_SECONDS, _LINGER_BYTES, _SMALL = 2.0, 512 * 2**20, 2**20


class Guard:
    """Wraps the application.

    Args:
        app: what answers once a request is let in.
        settings: hosts, token and limits.
        metrics: counts what is refused.
    """

    def __init__(self, app: App, settings: ServeSettings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._token = hashlib.sha256(settings.token.encode()).digest() if settings.token else None
        self.buffered = 0
        self.draining = False  # every answer then is its connection's last

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Let a request in, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        visit = _Visit(self, scope, receive, send)
        try:
            self._check(scope, visit)
            await self._app(scope, visit.receive, visit.send)
        except Problem as problem:
            await visit.refuse(problem)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            logger.exception("serve: a request failed")
            await visit.refuse(unexpected(error))
        finally:
            self.buffered -= visit.taken
            route = scope["path"] if scope["path"] in _ROUTES else "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.add(route, method, str(visit.status or 499))

    def _check(self, scope: MutableMapping[str, Any], visit: _Visit) -> None:
        headers = visit.headers
        # The parser's own limit holds for headers that come in pieces alone.
        size = sum(len(name) + len(value) + 4 for name, value in scope["headers"]) + len(scope["query_string"])
        if size > self._settings.limits.header_bytes or len(scope["headers"]) > _MOST_HEADERS:
            self._metrics.refused.add("headers")
            raise Problem(
                431, f"more than {_MOST_HEADERS} headers, or more than {self._settings.limits.header_bytes:,} bytes"
            )
        self._check_host(headers.get("host", []))
        self._check_origin(headers)
        if self._token is not None and scope["path"] not in _OPEN:
            self._check_token(headers.get("authorization", []))
        declared = headers.get("content-length", [])
        if declared and int(declared[0]) > self._settings.limits.body_bytes:
            raise self.too_large()

    def too_large(self) -> Problem:
        """Return the problem of a body beyond the limit."""
        limit = self._settings.limits.body_bytes
        self._metrics.refused.add("body")
        return Problem(
            413, f"the body has more than the allowed {limit:,} bytes", mend="send fewer or smaller pictures"
        )

    def _check_host(self, hosts: list[str]) -> None:
        name = _bare(hosts[0]) if len(hosts) == 1 else None
        if name not in self._settings.hosts:
            self._metrics.refused.add("host")
            shown = hosts[0][:80] if hosts else "none"
            mend = "use the address the server was started with, or start it with --allow-host NAME"
            raise Problem(421, f"this server does not answer to the name {shown!r}", where="Host", mend=mend)

    def _check_origin(self, headers: dict[str, list[str]]) -> None:
        """Pages of other sites get nothing, also where they know the address."""
        origins, host = headers.get("origin", []), headers["host"][0].lower()
        same = all(_site(origin) == host for origin in origins)
        crossed = headers.get("sec-fetch-site", ["none"])[0] in ("cross-site", "same-site")
        # A link on another page may lead here; nothing else of another site may.
        followed = headers.get("sec-fetch-mode", [""])[0] == "navigate" and not origins
        if not same or (crossed and not followed):
            self._metrics.refused.add("origin")
            raise Problem(403, "requests from pages of other origins are refused", where="Origin")

    def _check_token(self, given: list[str]) -> None:
        scheme, _, shown = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        digest = hashlib.sha256(shown.strip().encode("utf-8", "surrogateescape")).digest()
        # Digests have one length, and are compared in a time that does not depend on where they differ.
        if not hmac.compare_digest(digest, self._token or b"") or scheme.lower() != "bearer":
            self._metrics.refused.add("token")
            challenge = {"www-authenticate": 'Bearer realm="danlu"'}
            mend = "send the header Authorization: Bearer TOKEN"
            raise Problem(401, "a token is needed", where="Authorization", mend=mend, headers=challenge)

    @property
    def settings(self) -> ServeSettings:
        """The settings it was made with."""
        return self._settings


def _site(origin: str) -> str | None:
    """Return an ``Origin`` header's host and port, lower case; None where it is none."""
    try:
        return urlsplit(origin.lower()).netloc if "://" in origin else None
    except ValueError:  # a bracket that is not closed, among others
        return None


def _bare(host: str) -> str | None:
    """Return a ``Host`` header's name without its port, lower case; None where it is none."""
    name, separator, port = host.lower().rpartition(":")
    if not separator or (name.startswith("[") and not name.endswith("]")) or host.endswith("]"):
        name, port = host.lower(), "0"
    return name if port.isascii() and port.isdigit() else None


class _Visit:
    """One request: counts its body as it comes, times it, and ends its answer so that the client can read it."""

    def __init__(self, guard: Guard, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        self._guard, self._receive, self._send = guard, receive, send
        self._limits = guard.settings.limits
        self._begin = time.perf_counter()
        self._ended = False  # the body has come to its end, or the client has left
        self._closing = False
        self.headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            self.headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        declared = self.headers.get("content-length", ["0" if "transfer-encoding" not in self.headers else "-1"])
        self._length = int(declared[0])
        self.taken = 0
        self.status = 0

    async def receive(self) -> Message:
        """Return the next piece of the body; see :class:`~danlu.deploy.serve.settings.Limits`.

        Raises:
            Problem: 408, the body is too slow; 413, too large; 503, all bodies together are.
        """
        if self._ended:
            return await self._receive()
        try:
            left = self._begin + self._limits.body_seconds - time.perf_counter()
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except TimeoutError:
            self._guard._metrics.refused.add("slow")
            what = f"the body did not come within {self._limits.body_seconds:g} s"
            raise Problem(408, what) from None
        if message["type"] != "http.request":
            self._ended = True
            return message
        self._ended = not message.get("more_body", False)
        count = len(message.get("body", b""))
        self.taken += count
        self._guard.buffered += count
        if self.taken > self._limits.body_bytes:
            raise self._guard.too_large()
        if self._guard.buffered > self._limits.buffered_bytes:
            self._guard._metrics.refused.add("memory")
            raise Problem(503, "too many large requests at once", retry_after=1)
        return message

    async def send(self, message: Message) -> None:
        """Send a piece of the answer, with the headers every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [(name.lower(), value) for name, value in message.get("headers", [])]
            present = {name for name, _ in headers}
            headers += [pair for pair in _HEADERS if pair[0] not in present]
            if b"cache-control" not in present:
                headers.append((b"cache-control", b"no-store"))
            self._closing = not self._ended and not 0 <= self._length <= _SMALL
            if self._closing or self._guard.draining:
                headers.append((b"connection", b"close"))
            await self._send({**message, "headers": headers})
            return
        if self._closing and not message.get("more_body", False):
            # A connection that is closed while bytes arrive is reset, and takes the answer with it.
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    async def _linger(self) -> None:
        end, thrown = time.perf_counter() + _LINGER_SECONDS, 0
        while not self._ended and thrown < _LINGER_BYTES:
            try:
                message = await asyncio.wait_for(self._receive(), max(0.0, end - time.perf_counter()))
            except TimeoutError:
                return
            thrown += len(message.get("body", b""))
            self._ended = message["type"] != "http.request" or not message.get("more_body", False)

    async def refuse(self, problem: Problem) -> None:
        """Answer with an error document, where nothing was answered yet."""
        if self.status:
            return
        body = problem.body()
        headers = {"content-type": CONTENT_TYPE, "content-length": str(len(body)), **problem.headers}
        pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body, "more_body": False})
