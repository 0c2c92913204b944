"""The network door: https only, public addresses only, bounded, resumed, verified; and the package clients."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import http.server
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from danlu.core import fetch
from danlu.core.errors import InputError

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT in several honest and dishonest ways; what was asked for is kept in ``asked``."""

    asked: ClassVar[list[tuple[str, str | None]]] = []
    cut: ClassVar[tuple[str, ...]] = ("/cut", "/untold-cut")

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append((self.path, wanted))
        if self.path.startswith("/redirect?to="):
            self.send_response(302)
            self.send_header("Location", self.path.partition("=")[2])
            self.end_headers()
            return
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "https://host.test/loop")
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        body = CONTENT
        if self.path == "/html":
            body = b"<!DOCTYPE html><html>please log in</html>"
        if self.path == "/long":
            body = CONTENT + b"more"
        begin = int(wanted[6:-1]) if wanted and self.path != "/norange" else 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        if self.path not in ("/long", "/untold", "/untold-cut"):
            self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client had enough
            self.wfile.write(body[begin : len(body) // 2 if self.path in self.cut and not begin else None])
        self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Handler]]:
    """A loopback server behind the name host.test; only the TLS layer and the address check are stood in for."""
    Handler.asked = []
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    port = httpd.server_address[1]
    monkeypatch.setattr(fetch, "_connection", lambda host, _: http.client.HTTPConnection("127.0.0.1", port, timeout=5))
    monkeypatch.delenv("DANLU_OFFLINE", raising=False)
    yield Handler
    httpd.shutdown()
    httpd.server_close()


def get(path: str, tmp_path: Path, checksum: str = SHA, limit: int = len(CONTENT)) -> Path:
    return fetch.download(f"https://host.test{path}", tmp_path / "file", checksum=checksum, limit=limit)


def test_download_verifies_and_keeps(server: type[Handler], tmp_path: Path) -> None:
    assert get("/file", tmp_path).read_bytes() == CONTENT
    assert get("/file", tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 1, "a right file is not fetched again"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_cut_download_is_continued(server: type[Handler], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"was cut|cannot be fetched"):
        get("/cut", tmp_path)
    assert not (tmp_path / "file").exists()
    half = (tmp_path / "file.part").stat().st_size
    assert 0 < half < len(CONTENT)
    assert get("/file", tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == ("/file", f"bytes={half}-")


def test_without_a_length_the_checksum_decides(server: type[Handler], tmp_path: Path) -> None:
    assert get("/untold", tmp_path, limit=len(CONTENT) + 1000).read_bytes() == CONTENT
    (tmp_path / "file").unlink()
    with pytest.raises(InputError, match="expected"):
        get("/untold-cut", tmp_path, limit=len(CONTENT) + 1000)
    assert list(tmp_path.iterdir()) == []


def test_server_without_ranges_starts_again(server: type[Handler], tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    assert get("/norange", tmp_path).read_bytes() == CONTENT


def test_wrong_partial_is_dropped_and_fetched_anew(server: type[Handler], tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(b"x" * 1000)
    assert get("/file", tmp_path).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == ["bytes=1000-", None]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/html", "HTML page"),
        ("/missing", "404"),
        ("/long", "more than the expected"),
        ("/redirect?to=file:///etc/passwd", "only https"),
        ("/redirect?to=http://host.test/file", "only https"),
        ("/redirect?to=", "redirects"),
        ("/loop", "more than 5 redirects"),
    ],
)
def test_bad_answers_leave_no_file(server: type[Handler], tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        get(path, tmp_path)
    assert not (tmp_path / "file").exists()
    partial = tmp_path / "file.part"
    assert not partial.exists() or partial.stat().st_size <= len(CONTENT)


def test_wrong_checksum_leaves_nothing(server: type[Handler], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected 00"):
        get("/file", tmp_path, checksum="md5:00")
    assert list(tmp_path.iterdir()) == []


def test_promised_length_over_the_limit_is_refused_unread(server: type[Handler], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at most 1,000"):
        get("/file", tmp_path, limit=1000)
    assert list(tmp_path.iterdir()) == []


def test_redirect_within_https_is_followed(server: type[Handler], tmp_path: Path) -> None:
    assert get("/redirect?to=https://other.test/file", tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url", ["http://host.test/a", "file:///etc/passwd", "ftp://host.test/a", "https://", "data:,x"]
)
def test_only_https(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only https"):
        fetch.download(url, tmp_path / "file", checksum=SHA, limit=10)


def test_credentials_in_an_address_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="password") as error:
        fetch.download("https://user:secret@host.test/a", tmp_path / "file", checksum=SHA, limit=10)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "::1",
        "fe80::1%eth0",
        "fd00::1",
        "::ffff:127.0.0.1",
        "224.0.0.1",
    ],
)
def test_private_addresses_are_refused(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    answer = [(family, socket.SOCK_STREAM, 6, "", (address, 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer)
    monkeypatch.setattr(socket, "create_connection", lambda *args: pytest.fail("connected to a private address"))
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "DANLU_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="no public address"):
        fetch.download("https://innocent.test/a", tmp_path / "file", checksum=SHA, limit=10)


def test_one_private_address_among_public_ones_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 443)) for host in ("93.184.216.34", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer)
    with pytest.raises(InputError, match="no public address"):
        fetch._public_addresses("innocent.test", 443)


def test_the_checked_address_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connected: list[object] = []
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: answer)

    def connect(address: object, timeout: float) -> socket.socket:
        connected.append((address, timeout))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "DANLU_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="no answer in time"):
        fetch.download("https://innocent.test/a", tmp_path / "file", checksum=SHA, limit=10)
    assert connected == [(("93.184.216.34", 443), fetch.CONNECT_SECONDS)]


def test_a_hanging_resolver_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: done.wait(30) and [])
    try:
        with pytest.raises(TimeoutError):
            fetch._public_addresses("innocent.test", 443)
    finally:
        done.set()


def test_a_proxy_of_the_user_is_used_but_not_for_private_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://10.0.0.1:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    connection = fetch._connection("innocent.test", 443)
    assert (connection.host, connection.port) == ("10.0.0.1", 3128)
    with pytest.raises(InputError, match="no public address"):
        fetch._connection("169.254.169.254", 443)


def test_the_user_of_a_proxy_is_named_to_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            client, _ = listener.accept()
            with client:
                asked.append(client.recv(4096))
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        monkeypatch.setenv("https_proxy", f"http://us%40er:se%3Acret@127.0.0.1:{listener.getsockname()[1]}")
        for name in ("no_proxy", "NO_PROXY", "DANLU_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(InputError, match="407"):
            fetch.download("https://innocent.test/a", tmp_path / "file", checksum=SHA, limit=10)
        thread.join(10)
    user = base64.b64encode(b"us@er:se:cret").decode()
    assert f"Proxy-Authorization: Basic {user}\r\n" in asked[0].decode()


def test_offline_refuses_everything(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DANLU_OFFLINE", "1")
    calls = [
        lambda: fetch.download("https://host.test/a", tmp_path / "a", checksum=SHA, limit=1),
        lambda: fetch.npm_package("thing", "1.0.0", tmp_path, checksum=SHA),
        lambda: fetch.debian_package("thing", tmp_path),
    ]
    for call in calls:
        with pytest.raises(InputError, match="DANLU_OFFLINE"):
            call()
    monkeypatch.setenv("DANLU_OFFLINE", "0")
    assert not fetch.is_offline()


def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Put a stand-in for a package client first on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("DANLU_OFFLINE", raising=False)


posix = pytest.mark.skipif(os.name == "nt", reason="the stand-in is a script with a #! line")


@posix
def test_npm_pack_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(
        tmp_path,
        monkeypatch,
        "npm",
        "assert sys.argv[1:3] == ['pack', 'thing@1.0.0'] and '--ignore-scripts' in sys.argv\n"
        "open('thing-1.0.0.tgz', 'wb').write(bytes(range(256)) * 4096)",
    )
    assert fetch.npm_package("thing", "1.0.0", tmp_path, checksum=SHA).read_bytes() == CONTENT
    (tmp_path / "thing-1.0.0.tgz").write_bytes(b"changed")
    assert fetch.npm_package("thing", "1.0.0", tmp_path, checksum=SHA).read_bytes() == CONTENT
    with pytest.raises(InputError, match="expected 11"):
        fetch.npm_package("thing", "1.0.0", tmp_path, checksum="md5:11")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "thing-1.0.0.tgz"]


@posix
def test_a_failing_client_is_reported_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(
        tmp_path, monkeypatch, "apt-get", "print('W: noise', file=sys.stderr)\nsys.exit('E: Unable to locate thing')"
    )
    with pytest.raises(
        InputError, match=r"apt-get download thing: E: Unable to locate thing\n.*apt-get update"
    ) as error:
        fetch.debian_package("thing", tmp_path)
    assert "noise" not in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin"]


@posix
def test_debian_package_is_kept_under_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(tmp_path, monkeypatch, "apt-get", "open('thing_1.0%2bgit_all.deb', 'w').write('deb')")
    assert fetch.debian_package("thing", tmp_path) == tmp_path / "thing.deb"


def test_a_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DANLU_OFFLINE", raising=False)
    with pytest.raises(InputError, match="npm is not installed"):
        fetch.npm_package("thing", "1.0.0", tmp_path, checksum=SHA)


@posix
def test_a_hanging_client_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client(tmp_path, monkeypatch, "npm", "import time\ntime.sleep(60)")
    monkeypatch.setattr(fetch, "CLIENT_SECONDS", 0.5)
    with pytest.raises(InputError, match="gave up"):
        fetch.npm_package("thing", "1.0.0", tmp_path, checksum=SHA)
