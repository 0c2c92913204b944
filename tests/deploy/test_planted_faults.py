"""Of sixty planted faults at least fifty-eight are found and placed; clean pairs raise no alarm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from danlu.core.errors import InputError
from danlu.deploy.parity import parity
from tests.deploy.faults import FAULTS, MORE
from tests.deploy.planted import Fault, Fixtures, clean_forms, make_fixtures

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


@pytest.mark.parametrize("fault", MORE, ids=lambda fault: fault.name)
def test_what_a_foreign_file_may_also_do(fixtures: Fixtures, fault: Fault) -> None:
    found, placed, said = outcome(fault, fixtures)
    assert found, said
    assert placed or not fault.says, said


def test_a_declared_batch_is_a_note_and_no_failure(fixtures: Fixtures) -> None:
    fault = next(fault for fault in MORE if "batch of one" in fault.name)
    found = parity(fixtures.eager, fault.make(fixtures), fixtures.data, threads=1)
    assert found["passed"]
    assert not found["finding"]["serious"]


def test_clean_pairs_raise_no_alarm(fixtures: Fixtures) -> None:
    """Two hundred of them: `python -m proof.parity`."""
    for eager, data in ((fixtures.eager, fixtures.data), (fixtures.grey, fixtures.grey_data)):
        for name, form in clean_forms(eager, data, fixtures.folder / f"clean{eager.channels}").items():
            found = parity(eager, form, data, threads=1)
            assert found["passed"], (name, found["finding"])
            assert found["finding"] is None, name
            assert found["matched"] == ("by value" if name.startswith("foreign") else "by name")


def test_a_foreign_file_is_opened_by_its_path(fixtures: Fixtures, tmp_path: Path) -> None:
    (tmp_path / "foreign.onnx").write_bytes(fixtures.foreign.SerializeToString())
    found = parity(fixtures.eager, tmp_path / "foreign.onnx", fixtures.data, threads=1)
    assert found["passed"]
    assert found["matched"] == "by value"
    with pytest.raises(InputError, match="cannot be the reference"):
        parity(tmp_path / "foreign.onnx", fixtures.eager, fixtures.data, threads=1)
