"""The recorded proofs are of today's source, and what is shipped is what was recorded. Run `make proof` if not."""

from __future__ import annotations

import json

import pytest

from danlu.models import MODELS
from danlu.proof.checks import CHECKS
from proof.__main__ import PENDING, SHIPPED, pending, recorded, shipped, source_hash

ROWS = recorded()


@pytest.mark.parametrize("name", sorted(ROWS))
def test_the_recorded_proof_is_not_stale(name: str) -> None:
    row = ROWS[name]
    assert row["ok"], row["why"]
    assert set(row["checks"]) == set(CHECKS)
    assert not [what for what, measured in row["measured"].items() if "skipped" in measured]
    assert row["source_hash"] == source_hash(name)


def test_what_is_not_recorded_is_listed() -> None:
    """Nothing is left out silently: a network is proven, or stands in the list of those whose proof is still to run."""
    assert sorted([*ROWS, *pending()]) == MODELS.names()
    assert pending() == sorted(set(PENDING.read_text(encoding="utf-8").split()))


def test_what_is_shipped_is_what_was_recorded() -> None:
    assert json.loads(SHIPPED.read_text(encoding="utf-8")) == shipped(ROWS)
