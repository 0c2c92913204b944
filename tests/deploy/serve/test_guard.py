"""Who is let in, how much, how slowly; what every answer carries."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from danlu.core.errors import InputError
from danlu.deploy.serve.engine import Engine
from danlu.deploy.serve.guard import HEADERS
from danlu.deploy.serve.service import Service
from danlu.deploy.serve.settings import Limits, ServeSettings, make_settings
from tests.deploy.serve.running import Client, form_of, read_all, running

TOKEN = "a-token-of-many-letters"
QUICK = Limits(
    body_bytes=2**20,
    buffered_bytes=4 * 2**20,
    connections=12,
    header_seconds=0.6,
    body_seconds=0.8,
    idle_seconds=1,
    header_bytes=8192,
)


@pytest.fixture(scope="module")
def guarded(engine: Engine) -> Iterator[tuple[Client, Service]]:
    """A server with a token and with limits that are quickly reached."""
    with running(engine, ServeSettings(port=0, token=TOKEN, limits=QUICK)) as found:
        yield found


@pytest.fixture
def strict(guarded: tuple[Client, Service]) -> Client:
    return guarded[0]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("path", ["/v1/model", "/v1/predict", "/v1/explain", "/metrics", "/openapi.json", "/nowhere"])
def test_b62_the_token_is_asked_for_on_all_verbs(strict: Client, method: str, path: str) -> None:
    bare = Client(strict.port)
    for given in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
    ):
        reply = bare.ask(method, path, headers=given)
        assert reply.status == 401
        assert reply.headers["www-authenticate"].startswith("Bearer")
    assert strict.ask(method, path).status != 401
    assert bare.ask(method, path, headers={"Authorization": f"Bearer {TOKEN}x"}).status == 401


def test_without_a_token_only_the_empty_page_and_health_are_seen(strict: Client, engine: Engine) -> None:
    bare = Client(strict.port)
    for path in ("/health/live", "/health/ready", "/", "/page.css", "/page.js", "/draw.js", "/icon.svg"):
        reply = bare.ask("GET", path)
        assert reply.status == 200
        assert engine.info.model.encode() not in reply.body


@pytest.mark.parametrize(
    "host", ["evil", "evil.example:80", "127.0.0.1.evil.example", "localhost@evil", "", "[::1", "127.0.0.1:x"]
)
def test_b62_a_foreign_host_gets_nothing(client: Client, host: str) -> None:
    for path in ("/", "/v1/model", "/health/live"):
        reply = client.ask("GET", path, headers={"Host": host})
        assert reply.status in (400, 421)
        assert b"lenet" not in reply.body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9", "127.0.0.1", "[::1]:8000", "[::1]"])
def test_its_own_names_are_answered(client: Client, host: str) -> None:
    assert client.ask("GET", "/v1/model", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil", "null", "http://localhost:1", "https://127.0.0.1.evil", "http://127.0.0.1", "http://["]
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
def test_b62_a_foreign_origin_gets_nothing(client: Client, digit: bytes, origin: str, method: str) -> None:
    body = digit if method == "POST" else None
    reply = client.ask(method, "/v1/predict", body, {"Origin": origin, "Content-Type": "image/png"})
    assert reply.status == 403
    assert "access-control-allow-origin" not in reply.headers


def test_its_own_page_is_let_in(client: Client, digit: bytes) -> None:
    headers = {
        "Origin": f"http://127.0.0.1:{client.port}",
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "image/png",
    }
    assert client.ask("POST", "/v1/predict", digit, headers).status == 200
    crossed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.ask("GET", "/v1/model", headers=crossed).status == 403
    assert client.ask("GET", "/", headers={**crossed, "Sec-Fetch-Mode": "navigate"}).status == 200


def test_b62_a_browsers_delete_finds_no_route(client: Client) -> None:
    reply = client.ask("DELETE", "/v1/model")
    assert reply.status == 405
    assert reply.headers["allow"] == "GET"


def test_b60_150_mb_are_refused_while_they_come(strict: Client, guarded: tuple[Client, Service]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", strict.port, timeout=20)
    connection.putrequest("POST", "/v1/predict")
    for name, value in (
        ("Authorization", f"Bearer {TOKEN}"),
        ("Content-Type", "image/png"),
        ("Transfer-Encoding", "chunked"),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    piece = b"10000\r\n" + bytes(65536) + b"\r\n"
    sent = 0
    try:
        while sent < 150 * 2**20:
            connection.send(piece)
            sent += 65536
    except OSError:
        pass  # the server closed: it had said enough
    answer = connection.getresponse()
    assert answer.status == 413
    assert b"1,048,576" in answer.read()
    connection.close()
    declared = {"Content-Type": "image/png", "Content-Length": str(150 * 2**20)}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**declared, "Authorization": f"Bearer {TOKEN}"}.items())
    begin = time.perf_counter()
    answered = strict.raw(f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n{head}\r\n".encode())
    assert answered.startswith(b"HTTP/1.1 413")
    assert time.perf_counter() - begin < 6
    assert guarded[1].batcher.pictures == 0


def test_b60_all_bodies_together_are_bounded(engine: Engine, digit: bytes) -> None:
    small = replace(QUICK, body_bytes=2**20, buffered_bytes=2**19, body_seconds=20)
    with running(engine, ServeSettings(port=0, limits=small)) as (client, _):
        reply = client.predict(bytes(2**20 - 10), "application/octet-stream")
        assert reply.status == 503
        assert int(reply.headers["retry-after"]) >= 1
        assert client.predict(digit).status == 200  # what was taken is given back


def test_b61_headers_that_never_end(strict: Client) -> None:
    begin = time.perf_counter()
    with socket.create_connection(("127.0.0.1", strict.port), timeout=10) as slow:
        slow.sendall(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n")
        answer = read_all(slow)
    assert answer.startswith(b"HTTP/1.1 408")
    assert time.perf_counter() - begin < 5
    with socket.create_connection(("127.0.0.1", strict.port), timeout=10) as silent:
        assert read_all(silent).startswith(b"HTTP/1.1 408")
    # A second request on a living connection is timed as well.
    with socket.create_connection(("127.0.0.1", strict.port), timeout=10) as second:
        second.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.2)
        second.sendall(b"GET /health/live HTTP/1.1\r\nHo")
        assert b"HTTP/1.1 408" in read_all(second)


def test_b61_a_body_that_never_ends(strict: Client) -> None:
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: image/png\r\n"
    )
    with socket.create_connection(("127.0.0.1", strict.port), timeout=10) as slow:
        slow.sendall(f"{head}Content-Length: 1000\r\n\r\n".encode())
        begin = time.perf_counter()
        slow.sendall(b"\x89PNG")
        answer = slow.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408")
        assert time.perf_counter() - begin < 5
        # What drips in afterwards keeps nothing open.
        end = time.perf_counter() + 6
        with pytest.raises(OSError):  # noqa: PT011
            while time.perf_counter() < end:
                slow.sendall(b"x")
                time.sleep(0.1)


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: -1\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 0x10\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"X: " + b"a" * 20_000 + b"\r\n",
        b"".join(b"X-%d: y\r\n" % place for place in range(4000)),
        b"Bad Name: y\r\n",
        b"X: a\x00b\r\n",
    ],
    ids=["negative", "two", "hex", "coding", "long", "many", "name", "nul"],
)
def test_b61_headers_that_lie(strict: Client, lines: bytes) -> None:
    answer = strict.raw(b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
    assert answer.split(b" ")[1] in (b"400", b"431", b"501")
    assert b"nosniff" in answer
    assert strict.ask("GET", "/v1/model").status == 200


def test_b61_endless_part_headers(strict: Client) -> None:
    begin = time.perf_counter()
    for head in (
        b"X: y\r\n" * 150_000,
        b"X: " + b"y" * 900_000 + b"\r\n",
        b"Content-Disposition: form-data\r\n" * 20_000,
    ):
        body = b"--edge\r\n" + head + b"\r\n1\r\n--edge--\r\n"
        reply = strict.predict(body, "multipart/form-data; boundary=edge")
        assert reply.status == 400
    many = (
        b"".join(b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' for _ in range(15_000))
        + b"--edge--\r\n"
    )
    assert strict.predict(many, "multipart/form-data; boundary=edge").status == 400
    for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "e" * 500):
        assert strict.predict(b"--edge\r\n", kind).status == 400
    assert time.perf_counter() - begin < 15


def test_b61_a_flood_of_ranges_is_not_looked_at(client: Client) -> None:
    ranges = "bytes=" + ",".join(f"{place}-" for place in range(1500))
    begin = time.perf_counter()
    reply = client.ask("GET", "/page.js", headers={"Range": ranges})
    assert reply.status == 200
    assert "content-range" not in reply.headers
    assert time.perf_counter() - begin < 2


def test_connections_are_bounded(strict: Client, guarded: tuple[Client, Service]) -> None:
    opened = [socket.create_connection(("127.0.0.1", strict.port), timeout=10) for _ in range(QUICK.connections + 4)]
    try:
        refused = [one for one in opened if read_all(one).startswith(b"HTTP/1.1 503")]
        assert len(refused) >= 4
    finally:
        for one in opened:
            one.close()
    assert strict.ask("GET", "/v1/model").status == 200
    assert guarded[1].metrics.connections_refused.value() >= 4


def test_every_answer_carries_the_headers(client: Client, digit: bytes) -> None:
    replies = [
        client.ask("GET", path) for path in ("/", "/page.js", "/v1/model", "/nowhere", "/metrics", "/openapi.json")
    ]
    replies += [client.predict(digit), client.predict(b"x"), client.ask("GET", "/", headers={"Host": "evil"})]
    for reply in replies:
        for name, value in HEADERS.items():
            assert reply.headers[name] == value
        assert "server" not in reply.headers
        assert "cache-control" in reply.headers
    policy = HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


OUTSIDE = """
/..%2f..%2fetc%2fpasswd /../../etc/passwd /page.js%00 /page.js/../server.py /static/..%2fapp.py //etc/passwd /index.html
/%2e%2e/pyproject.toml /page.css%23 /..%5c..%5cwindows /v1/model/..%2f.. /v1/models/x /page/ file:///etc/passwd
/C:/windows/win.ini /%c0%ae%c0%ae/
"""


@pytest.mark.parametrize("path", OUTSIDE.split())
def test_b64_no_path_leads_out(client: Client, path: str) -> None:
    reply = client.ask("GET", path)
    assert reply.status == 404
    assert reply.json()["title"] == "Not Found"


def test_b65_b66_the_routes_are_these_and_no_others(served: tuple[Client, Service]) -> None:
    client, _ = served
    document = client.ask("GET", "/openapi.json").json()
    found = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert found == {
        ("/v1/predict", "post"),
        ("/v1/explain", "post"),
        ("/v1/model", "get"),
        ("/health/live", "get"),
        ("/health/ready", "get"),
        ("/metrics", "get"),
    }
    for path in (
        "/v1/models",
        "/v1/load",
        "/v2/repository/models/x/load",
        "/v2/systemsharedmemory/region/a/register",
        "/admin",
        "/docs",
    ):
        for method in ("GET", "POST", "PUT", "DELETE"):
            assert client.ask(method, path, b"{}").status == 404


def test_b65_nothing_is_fetched(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait:
        bait.settimeout(0.3)
        url = f"http://127.0.0.1:{bait.getsockname()[1]}/a.png"
        for body, kind in (
            (url.encode(), "image/png"),
            (f'{{"url": "{url}"}}'.encode(), "application/json"),
            (f'<svg xmlns:x="http://www.w3.org/1999/xlink"><image x:href="{url}"/></svg>'.encode(), "image/svg+xml"),
            form_of([(url, url.encode())]),
        ):
            assert client.predict(body, kind, path=f"/v1/predict?url={url}").status in (400, 415)
        with pytest.raises(TimeoutError):
            bait.accept()


def test_b70_an_upload_is_never_served_back(client: Client) -> None:
    evil = b"<html><script>alert(1)</script></html>"
    for kind in ("text/html", "image/svg+xml", "image/png"):
        reply = client.predict(evil, kind)
        assert reply.status in (400, 415)
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert b"<" not in reply.body
    reply = client.predict(*form_of([("<script>alert(1)</script>.png", evil)]))
    assert reply.headers["content-type"] == "application/problem+json"
    assert "<script>" in reply.json()["where"]  # text in JSON, which no browser takes for a page


def test_a_picture_with_a_hostile_name(client: Client, digit: bytes) -> None:
    reply = client.predict(*form_of([("../../<img src=x onerror=alert(1)>\u202e.png", digit)]))
    assert reply.status == 200
    assert reply.body.isascii()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org", ""])
def test_b63_open_to_others_means_a_token(host: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no token" if host else "no address"):
        make_settings(host, environ={})
    if host:
        assert make_settings(host, environ={"DANLU_TOKEN": TOKEN}).token == TOKEN
        (tmp_path / "token").write_text(TOKEN + "\n")
        assert make_settings(host, token_file=tmp_path / "token", environ={}).token == TOKEN


@pytest.mark.parametrize(
    "token", ["", "admin", "password", "short-token-15c", "with space in it it is", "ünïcödé-token-letters", "x" * 5000]
)
def test_b63_a_weak_token_is_none(token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        make_settings("127.0.0.1", token_file=tmp_path / "token", environ={})
    assert not token or token not in str(caught.value)
    with pytest.raises(InputError):
        make_settings("127.0.0.1", environ={"DANLU_TOKEN": token})


def test_metrics_keep_no_name_of_a_client(served: tuple[Client, Service], digit: bytes) -> None:
    client, service = served
    for place in range(30):
        client.ask("GET", f"/never/{place}")
        client.ask("GET", "/v1/model", headers={"Host": f"host{place}"})
    text = service.metrics.text()
    assert "/never/" not in text
    assert "host1" not in text
    assert len(text.splitlines()) < 250
