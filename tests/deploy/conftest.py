"""Trained and captured once, used by all tests of deployment."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from danlu.core.records import RunFolder
from danlu.data.load import Data
from danlu.deploy.capture import capture
from danlu.deploy.export import export
from danlu.tasks.trained import Trained
from tests.deploy.trained_runs import digits, lenet_run, tiny_trained


@pytest.fixture(scope="session")
def data() -> Data:
    return digits()


@pytest.fixture(scope="session")
def tiny_once(tmp_path_factory: pytest.TempPathFactory, data: Data) -> Trained:
    return tiny_trained(tmp_path_factory.mktemp("tiny"), data)


@pytest.fixture
def tiny(tiny_once: Trained, tmp_path: Path) -> Trained:
    """A trained network in a run folder of its own."""
    (tmp_path / "run").mkdir()
    return replace(tiny_once, model=copy.deepcopy(tiny_once.model), run=RunFolder(tmp_path / "run"))


@pytest.fixture(scope="session")
def tiny_graph_once(tiny_once: Trained) -> onnx.ModelProto:
    return capture(tiny_once)


@pytest.fixture
def tiny_graph(tiny_graph_once: onnx.ModelProto) -> onnx.ModelProto:
    """What ``capture`` gives for the tiny network; a copy to spoil."""
    graph = onnx.ModelProto()
    graph.CopyFrom(tiny_graph_once)
    return graph


@pytest.fixture
def captured(tiny_graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> onnx.ModelProto:
    """Let export use ``tiny_graph`` instead of translating again; the test may spoil it first."""
    monkeypatch.setattr("danlu.deploy.export.capture", lambda trained: tiny_graph)
    return tiny_graph


@pytest.fixture(scope="session")
def lenet(tmp_path_factory: pytest.TempPathFactory, data: Data) -> tuple[Path, dict[str, Any]]:
    """A LeNet-5 run with both artifacts, and what export returned."""
    run = lenet_run(tmp_path_factory.mktemp("lenet") / "运行 1", data)
    return run, export(run, data, threads=1)
