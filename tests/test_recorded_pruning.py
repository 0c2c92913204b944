"""The recorded proofs of structured pruning hold for today's source; what is not proved is listed."""

from __future__ import annotations

import numpy as np
import pytest

from danlu.core.files import read_json
from proof import pruning, resnet56, routes, slim_page

ROWS = pruning.recorded()


@pytest.mark.parametrize("name", sorted(ROWS))
def test_row_holds_for_todays_source(name: str) -> None:
    row = ROWS[name]
    assert row["ok"], row.get("reason")
    assert row["source"] == pruning.source_hash(name), f"stale: python -m proof.pruning {name}"
    if "refused" not in row:
        assert row["macs"]["after"] <= pruning.TARGET * row["macs"]["before"]
        assert row["error"] < 1e-4
        assert row["onnx"] < 1e-2


def test_rows_are_those_of_the_zoo() -> None:
    missing = sorted(set(pruning.names()) - ROWS.keys())
    unknown = sorted(ROWS.keys() - set(pruning.names()))
    assert not unknown, unknown
    if missing:
        pytest.skip(f"still to be proved (python -m proof.pruning): {', '.join(missing)}")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_tables_of_the_page_are_the_recorded_ones(language: str) -> None:
    """Run `python -m proof.slim_page` when this fails."""
    assert slim_page.PAGES[language].read_text(encoding="utf-8") == slim_page.with_tables(language)


def test_the_recorded_routes_are_of_todays_source() -> None:
    """Run `python -m proof.routes --work FOLDER` when this fails."""
    assert read_json(routes.RESULTS)["source"] == routes.source_hash()


def test_a_row_is_met_only_when_all_of_it_is() -> None:
    right = np.ones(10_000, dtype=bool)
    right[:600] = False
    row = {"seed": 0, "right": {"dense": right, "pruned": right}, "macs": 2.2, "faster": 1.7}
    assert resnet56.verdict([])["reads"] == "not run at full budget"
    assert resnet56.verdict([row])["reads"] == "met"
    assert resnet56.verdict([{**row, "faster": 1.5}])["reads"] == "missed"
    worse = right.copy()
    worse[600:660] = False
    assert resnet56.verdict([{**row, "right": {"dense": right, "pruned": worse}}])["reads"] == "missed"
    weak = right.copy()
    weak[600:800] = False
    assert resnet56.verdict([{**row, "right": {"dense": weak, "pruned": weak}}])["reads"] == "not run at full budget"
