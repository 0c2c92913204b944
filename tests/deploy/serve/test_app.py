"""What all routes share: errors of ours, and verbs."""

from __future__ import annotations

import pytest

from danlu.deploy.serve.service import Service
from tests.deploy.serve.running import Client, Heard


def test_an_error_of_ours_is_a_problem_document_and_logged_once(
    served: tuple[Client, Service], digit: bytes, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    client, service = served

    async def broken(*given: object) -> None:
        raise ValueError("secret path /home/x")

    monkeypatch.setattr(service, "predict", broken)
    reply = client.predict(digit)
    assert reply.status == 500
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.json()["detail"] == "internal error (ValueError)"
    assert b"secret" not in reply.body
    monkeypatch.undo()
    assert client.predict(digit).status == 200
    assert heard.lines == ["serve: a request failed"]


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
def test_probes_may_ask_with_head(served: tuple[Client, Service], path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client, service = served
    plain, head = client.ask("GET", path), client.ask("HEAD", path)
    assert (plain.status, head.status) == (200, 200)
    assert head.body == b""
    assert head.headers["content-length"] == str(len(plain.body))
    refused = client.ask("DELETE", path)
    assert refused.status == 405
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}
    monkeypatch.setattr(service.batcher, "draining", True)
    assert client.ask("HEAD", "/health/ready").status == 503
