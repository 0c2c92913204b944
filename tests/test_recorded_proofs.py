"""The recorded proofs are of today's source. Run `make proof` when this fails."""

from __future__ import annotations

import pytest

from danlu.models import MODELS
from proof.__main__ import recorded, source_hash


@pytest.mark.parametrize("name", MODELS.names())
def test_the_recorded_proof_is_not_stale(name: str) -> None:
    row = recorded()[name]
    assert row["ok"]
    assert row["source_hash"] == source_hash(name)


def test_nothing_is_recorded_that_is_gone() -> None:
    assert sorted(recorded()) == MODELS.names()
