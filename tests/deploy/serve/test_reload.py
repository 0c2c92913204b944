"""The artifact's file loaded again while the server runs."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import time
from pathlib import Path

import pytest

from danlu.deploy.serve.engine import Engine
from danlu.deploy.serve.service import Service
from danlu.deploy.serve.settings import ServeSettings
from tests.deploy.serve.running import Heard

PATH = Path("model.onnx")


def renamed(engine: Engine, name: str) -> Engine:
    other = copy.copy(engine)
    other.info = dataclasses.replace(engine.info, model=name)
    return other


def test_the_figures_name_the_artifact_that_answers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(engine, ServeSettings())
    monkeypatch.setattr(Engine, "open", lambda path, threads: renamed(engine, "newer"))
    assert 'model="newer"' not in service.metrics.text()
    assert asyncio.run(service.reload(PATH, 1))
    lines = [line for line in service.metrics.text().splitlines() if line.startswith("danlu_artifact_info{")]
    assert len(lines) == 1
    assert 'model="newer"' in lines[0]


def test_any_failure_is_counted_and_told(engine: Engine, monkeypatch: pytest.MonkeyPatch, heard: Heard) -> None:
    def fail(path: Path, threads: int | None) -> Engine:
        raise MemoryError

    service = Service(engine, ServeSettings())
    monkeypatch.setattr(Engine, "open", fail)
    assert not asyncio.run(service.reload(PATH, 1))
    assert service.metrics.reloads.value("refused") == 1
    assert service.engine is engine
    assert len(heard.lines) == 1
    assert "goes on" in heard.lines[0]


def test_the_last_of_two_reloads_stays(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.3, 0.0]  # the first takes longer

    def load(path: Path, threads: int | None) -> Engine:
        place = 2 - len(seconds)
        time.sleep(seconds.pop(0))
        return renamed(engine, f"artifact{place}")

    async def both(service: Service) -> None:
        await asyncio.gather(service.reload(PATH, 1), service.reload(PATH, 1))

    service = Service(engine, ServeSettings())
    monkeypatch.setattr(Engine, "open", load)
    asyncio.run(both(service))
    assert service.engine.info.model == "artifact1"
    assert service.metrics.reloads.value("done") == 2
