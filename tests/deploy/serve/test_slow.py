"""Clients and pictures that take their time: they keep nobody else out, and end with their deadline."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from danlu.deploy.serve import service as serving
from danlu.deploy.serve.engine import Engine
from danlu.deploy.serve.service import Service
from danlu.deploy.serve.settings import Limits, ServeSettings
from tests.deploy.serve.running import Client, encoded, form_of, running


@contextlib.contextmanager
def idle(client: Client, path: str, count: int) -> Iterator[None]:
    """Hold requests open whose bodies never come."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", client.port), timeout=10))
            one.sendall(head.encode() + b"\x89PNG")
        time.sleep(0.3)
        yield


def test_bodies_that_do_not_come_take_no_place(engine: Engine, digit: bytes) -> None:
    settings = ServeSettings(port=0, limits=Limits(queue=4, patience=1e9, body_seconds=5))
    with running(engine, settings) as (client, service), idle(client, "/v1/predict", 8):
        assert service.batcher.pictures == 0
        assert client.predict(digit).status == 200


def test_a_queue_that_is_full_refuses_before_and_after_the_body(engine: Engine, digit: bytes) -> None:
    settings = ServeSettings(port=0, limits=Limits(queue=4, patience=1e9))
    with running(engine, settings) as (client, service):
        tickets = [service.batcher.admit(2)]
        late = client.predict(*form_of([("a.png", digit)] * 3))  # the headers do not say how many
        tickets.append(service.batcher.admit(2))
        with idle(client, "/v1/predict", 1):
            early = client.predict(digit)
        for ticket in tickets:
            service.batcher.release(ticket)
        for reply in (late, early):
            assert reply.status == 503
            assert int(reply.headers["retry-after"]) >= 1
        assert client.predict(digit).status == 200


def test_a_slow_upload_does_not_block_explanations(engine: Engine, digit: bytes) -> None:
    settings = ServeSettings(port=0, limits=Limits(body_seconds=5))
    with running(engine, settings) as (client, _), idle(client, "/v1/explain", 2):
        assert client.predict(digit, path="/v1/explain").status == 200


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/explain"])
def test_the_deadline_holds_for_the_body(client: Client, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as slow:
        begin = time.perf_counter()
        slow.sendall(f"{head}Danlu-Deadline: 0.3\r\n\r\n".encode())
        answer = slow.recv(65536)
    assert answer.startswith(b"HTTP/1.1 504")
    assert b"application/problem+json" in answer
    assert time.perf_counter() - begin < 5


def test_who_leaves_before_the_body_has_come_is_counted(engine: Engine) -> None:
    with running(engine, ServeSettings(port=0, limits=Limits(body_seconds=5))) as (client, service):
        with idle(client, "/v1/predict", 3):
            assert service.metrics.dropped.value("left") == 0
        end = time.perf_counter() + 4
        while service.metrics.dropped.value("left") < 3:
            assert time.perf_counter() < end
            time.sleep(0.02)


def test_the_deadline_holds_for_decoding(
    served: tuple[Client, Service], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, service = served
    begun: list[str] = []
    plain = serving.Decoded

    def slow(data: bytes, info: object, name: str, most: int) -> object:
        begun.append(name)
        time.sleep(0.2)
        return plain(data, engine.info, name, most)

    monkeypatch.setattr(serving, "Decoded", slow)
    picture = encoded(np.zeros((8, 8)))
    begin = time.perf_counter()
    reply = client.predict(*form_of([("a.png", picture)] * 40), Danlu_Deadline="0.5")
    taken = time.perf_counter() - begin
    assert reply.status == 504
    assert "decoded" in reply.json()["detail"]
    assert taken < 3  # all of them would take 4 s and more
    time.sleep(0.5)
    count = len(begun)
    assert count < 40
    time.sleep(0.5)
    assert len(begun) == count  # the threads have stopped
    assert service.batcher.pictures == 0
