"""The recorded proofs are of today's source, and what is shipped is what was recorded. Run `make proof` if not."""

from __future__ import annotations

import json

import pytest

from danlu.models import MODELS
from danlu.proof.checks import CHECKS
from proof.__main__ import SHIPPED, recorded, shipped, source_hash

ROWS = recorded()


@pytest.mark.parametrize("name", MODELS.names())
def test_the_recorded_proof_is_not_stale(name: str) -> None:
    row = ROWS[name]
    assert row["ok"], row["why"]
    assert set(row["checks"]) == set(CHECKS)
    assert not [what for what, measured in row["measured"].items() if "skipped" in measured]
    assert row["source_hash"] == source_hash(name)


def test_nothing_is_recorded_that_is_gone() -> None:
    assert sorted(ROWS) == MODELS.names()


def test_what_is_shipped_is_what_was_recorded() -> None:
    assert json.loads(SHIPPED.read_text(encoding="utf-8")) == shipped(ROWS)
