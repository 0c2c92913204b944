"""One engine and one server for the tests that spoil neither."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu.core.log import logger
from danlu.data.load import Data
from danlu.deploy.serve.engine import Engine
from danlu.deploy.serve.service import Service
from tests.deploy.serve.running import Client, Heard, encoded, running


@pytest.fixture(scope="session")
def artifact(lenet: tuple[Path, dict[str, Any]]) -> Path:
    """The float32 artifact of a LeNet-5 that was trained on the digits."""
    return lenet[0] / "model.onnx"


@pytest.fixture(scope="session")
def engine(artifact: Path) -> Engine:
    return Engine.open(artifact, 1)


@pytest.fixture(scope="session")
def served(engine: Engine) -> Iterator[tuple[Client, Service]]:
    with running(engine) as found:
        yield found


@pytest.fixture
def client(served: tuple[Client, Service]) -> Client:
    return served[0]


@pytest.fixture(scope="session")
def digit(data: Data) -> bytes:
    """A test digit as a PNG file."""
    return encoded(np.asarray(data.test[0].picture))


@pytest.fixture
def heard() -> Iterator[Heard]:
    handler = Heard()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
