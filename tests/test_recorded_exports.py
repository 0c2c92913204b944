"""The recorded exports are of today's source, and the pages are made of them. Run `python -m proof.exports` if not."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.models import MODELS
from proof import parity
from proof.exports import RUNTIMES, families, recorded, source_hash
from proof.exports_page import LANGUAGES, page

ROWS = recorded()


@pytest.mark.parametrize("family", sorted(ROWS))
def test_the_recorded_row_is_not_stale(family: str) -> None:
    row = ROWS[family]
    assert row["variant"] == families()[family]
    assert row["source_hash"] == source_hash(row["variant"])
    assert set(RUNTIMES) <= set(row["cells"])
    assert "error" in row["cells"]["onnx"], "the whole zoo exports to ONNX"
    for cell in row["cells"].values():
        assert "as" in cell or cell.get("refused") or 0 <= cell["error"] <= max(1e-4, 2 * cell.get("rounding", 0))


def test_every_network_is_of_one_family() -> None:
    modules = {MODELS.index[name]["module"].rpartition(".")[2] for name in MODELS.names()}
    assert modules == set(families())
    assert set(ROWS) <= set(families())


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_is_current(language: str) -> None:
    path = Path(__file__).parents[1] / f"docs/{language}/exports.md"
    assert path.read_text(encoding="utf-8") == page(language)


def test_the_recorded_parity_meets_its_bar_and_is_not_stale() -> None:
    """Sixty faults and two hundred clean pairs, by `python -m proof.parity`."""
    document = parity.recorded()
    if not document:
        pytest.skip("not recorded yet: python -m proof.parity")
    assert document["source_hash"] == parity.source_hash()
    assert document["faults"]["placed"] >= parity.LEAST_PLACED
    assert not [row for rows in document["clean"].values() for row in rows.values() if row]
