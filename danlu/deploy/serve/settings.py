"""What ``danlu serve`` may be told, its limits, and what it refuses before it opens a port. Standard library only."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from danlu.core.errors import InputError

__all__ = ["TOKEN_VARIABLE", "Limits", "ServeSettings", "bind", "is_loopback", "make_settings"]

TOKEN_VARIABLE = "DANLU_TOKEN"
_SHORTEST_TOKEN = 16
_LONGEST_TOKEN = 4096
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_NAME = re.compile(r"[a-z0-9._-]+")
_KEPT_LETTERS = "ßς\u200c\u200d"
_MEND_TOKEN = (
    f"give --token-file FILE, or set {TOKEN_VARIABLE}; python -c 'import secrets; print(secrets.token_urlsafe())'"
)


@dataclass(frozen=True)
class Limits:
    """What one client may ask for; everything beyond is refused by name.

    Attributes:
        body_bytes: of one request's body.
        buffered_bytes: of all bodies in memory together.
        pixels: of one picture, before it is decoded.
        pictures: in one request.
        header_bytes: of a request's line and headers.
        connections: open at once.
        header_seconds: from the first byte of a request to the end of its headers.
        body_seconds: for the whole body.
        idle_seconds: between two requests of one connection.
        write_seconds: a client may leave an answer unread.
        deadline_seconds: from the headers to the answer; a client may ask for less.
        drain_seconds: for what is under way once the server is told to stop.
        batch: pictures computed at once, at most.
        queue: pictures admitted and not yet answered, at most.
        patience: how long a request may wait for others, as a multiple of what it (or the longest ahead) takes itself.
        least_wait: seconds that may always be waited, so that bursts of very short work are not refused.
    """

    body_bytes: int = 32 * 2**20
    buffered_bytes: int = 256 * 2**20
    pixels: int = 40_000_000
    pictures: int = 64
    header_bytes: int = 16 * 2**10
    connections: int = 256
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 15.0
    write_seconds: float = 30.0
    deadline_seconds: float = 30.0
    drain_seconds: float = 30.0
    batch: int = 32
    queue: int = 512
    patience: float = 1.0
    least_wait: float = 0.02


@dataclass(frozen=True)
class ServeSettings:
    """How to serve. Make one with :func:`make_settings`, which checks it.

    Attributes:
        host: the address to bind.
        port: 0 takes a free one.
        token: what clients must show, or None.
        hosts: names a request's ``Host`` may have, lower case, without port.
        limits: see :class:`Limits`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    hosts: frozenset[str] = frozenset(_LOOPBACK)
    limits: Limits = field(default_factory=Limits)


def is_loopback(host: str) -> bool:
    """Return whether ``host`` can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def make_settings(
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    token_file: Path | None = None,
    allow_hosts: Sequence[str] = (),
    limits: Limits | None = None,
    environ: Mapping[str, str] | None = None,
) -> ServeSettings:
    """Return checked settings.

    Args:
        host: the address to bind; anything but loopback needs a token.
        port: 0 to 65535; 0 takes a free one.
        token_file: holds the token on its only line; else the environment's ``DANLU_TOKEN``, else none.
        allow_hosts: further names a request's ``Host`` may have.
        limits: those of :class:`Limits` when not given.
        environ: ``os.environ`` when not given.

    Raises:
        InputError: a port out of range, an address that is none of this machine, a token that is missing, short or
            not readable, or a host name that is none.
    """
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port}", allowed=["0 to 65535; 0 takes a free one"])
    host = host.strip("[]")
    if not host or any(letter.isspace() for letter in host):
        raise InputError(f"--host {host!r} is no address", allowed=["127.0.0.1", "::1", "an address of this machine"])
    names = {*_LOOPBACK, *(found for name in allow_hosts for found in _host_names(name, "--allow-host"))}
    if host not in ("0.0.0.0", "::"):
        names |= _host_names(host, "--host")
    token = _token(token_file, os.environ if environ is None else environ)
    if token is None and not is_loopback(host):
        what = f"--host {host} can be reached from other machines, and there is no token"
        raise InputError(what, mend=_MEND_TOKEN)
    return ServeSettings(host, port, token, frozenset(names), limits or Limits())


def _token(path: Path | None, environ: Mapping[str, str]) -> str | None:
    where, text = f"environment {TOKEN_VARIABLE}", environ.get(TOKEN_VARIABLE)
    if path is not None:
        where = str(path)
        try:
            with path.open("rb") as file:
                text = file.read(_LONGEST_TOKEN + 2).decode("ascii")
        except UnicodeDecodeError:
            raise InputError("the token is not ASCII", where=where, mend=_MEND_TOKEN) from None
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror or error})", where=where, mend=_MEND_TOKEN) from None
    if text is None:
        return None
    token = text.strip("\r\n")
    if not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN:
        what = f"a token of {len(token)} characters"
        raise InputError(what, where=where, allowed=[f"{_SHORTEST_TOKEN} to {_LONGEST_TOKEN}"], mend=_MEND_TOKEN)
    if not all("!" <= letter <= "~" for letter in token):
        raise InputError("the token holds spaces, line ends or letters beyond ASCII", where=where, mend=_MEND_TOKEN)
    return token


def _host_names(name: str, option: str) -> set[str]:
    """Return what a browser sends as ``Host`` for the name that an option was given."""
    bare = name.lower().removesuffix(".")
    try:
        if ":" in bare:
            inner = bare[1:-1] if bare.startswith("[") and bare.endswith("]") else bare
            return {f"[{inner}]", f"[{ipaddress.IPv6Address(inner).compressed}]"}
        # Browsers keep these letters; Python's codec makes another name of them, which may be somebody else's.
        plain = "" if any(letter in _KEPT_LETTERS for letter in bare) else bare.encode("idna").decode("ascii")
    except ValueError:  # UnicodeError is one
        plain = ""
    if not _NAME.fullmatch(plain):
        mend = "give the bare name a browser sends (of letters beyond ASCII its form xn--…), without scheme, port or *"
        raise InputError(f"{option} {name!r} is no host name", allowed=["example.org", "[::1]"], mend=mend)
    return {plain}


def bind(settings: ServeSettings) -> socket.socket:
    """Open the listening socket, so that a port in use is an error before anything is loaded.

    Raises:
        InputError: the address is none of this machine's, or the port is in use or not allowed.
    """
    where = f"{settings.host}:{settings.port}"
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"is no address ({reason})", where=where) from None
    family, kind, number, _, address = found[0]
    # "localhost" is looked up like any name; what it leads to must be what was checked.
    if settings.token is None and not is_loopback(str(address[0])):
        raise InputError(f"leads to {address[0]}, and there is no token", where=where, mend=_MEND_TOKEN)
    listening = socket.socket(family, kind, number)
    try:
        if os.name != "nt":  # there it would let two servers share a port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        mend = "give another --port; 0 takes a free one"
        raise InputError(f"cannot be opened ({error.strerror or error})", where=where, mend=mend) from None
    return listening
