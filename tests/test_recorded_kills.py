"""The recorded hundred kills are of today's source, and every run ended as one left alone. Run `make proof` if not."""

from __future__ import annotations

from danlu.core.files import read_json
from proof.kills import KINDS, RESULTS, source_hash


def test_the_recorded_kills_hold() -> None:
    found = read_json(RESULTS)
    assert found["source_hash"] == source_hash(), "python -m proof.kills"
    assert set(found["rows"]) == set(KINDS)
    assert all(row["equal"] for row in found["rows"].values())
    assert sum(row["kills"] for row in found["rows"].values()) >= 100
    assert any(row["within_a_save"] for row in found["rows"].values())
