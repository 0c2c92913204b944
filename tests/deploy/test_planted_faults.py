"""Of sixty planted faults at least fifty-eight are found and placed; clean pairs raise no alarm."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.deploy.parity import parity
from danlu.deploy.program import Program
from danlu.deploy.subjects import ArtifactSubject
from danlu.deploy.artifact import sealed
from tests.deploy.faults import FAULTS, MORE
from tests.deploy.planted import Fault, Fixtures, foreign, make_fixtures, silent_bf16

LEAST_FOUND = 58


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Fixtures:
    return make_fixtures(tmp_path_factory.mktemp("planted"))


def outcome(fault: Fault, fixtures: Fixtures) -> tuple[bool, bool, dict[str, Any]]:
    """Plant a fault; return whether it is found, whether it is placed and named, and what was said."""
    subject = fault.make(fixtures)
    grey = subject.channels == 1
    found = parity(
        fixtures.grey if grey else fixtures.eager, subject, fixtures.grey_data if grey else fixtures.data, threads=1
    )
    said = found["finding"] or {}
    is_found = not found["passed"] or bool(said)
    placed = said.get("stage") == fault.stage and fault.says in f"{said.get('cause')} {said.get('layer')}"
    return is_found, placed, said


def test_sixty_faults_are_found_and_placed(fixtures: Fixtures) -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) == 60
    missed = []
    for fault in FAULTS:
        found, placed, said = outcome(fault, fixtures)
        if not (found and placed):
            missed.append(f"{fault.name}: {'found' if found else 'NOT FOUND'}, {said}")
    assert len(FAULTS) - len(missed) >= LEAST_FOUND, "\n".join(missed)
